//! `status`, `keeper`, `peer` and `health`: the node, those who keep for it, and the others.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::print::{amount, clean, count, duration, flat, say, short, size, table, time};
use crate::client::segment;
use crate::error::Result;
use crate::view::{KeeperView, KeepersView, KeptView, PeerView, StatusView};

/// `pumasi health`.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Ask whether it can do its work: the engine answers and the store takes writes
    #[arg(long)]
    ready: bool,
}

impl Health {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let answer: Value = session
            .client
            .get(if self.ready { "/readyz" } else { "/livez" })
            .await?;
        session.out.one(&answer, |_| "ok".to_owned())
    }
}

/// `pumasi status`.
pub(crate) async fn status(session: &Session) -> Result<()> {
    let status: StatusView = session.client.get("/node/status").await?;
    session.out.one(&status, screen)
}

fn screen(status: &StatusView) -> String {
    let node = &status.node;
    let mut lines = vec![
        format!("node      {}", node.id),
        format!("stands    {}", place(&node.building, &node.operator)),
        format!(
            "running   version {}, network {}, for {}",
            node.version,
            node.network,
            duration(status.uptime)
        ),
        format!(
            "others    {} connected, {} known",
            count(status.connected as u64, "node", "nodes"),
            status.known_nodes
        ),
        format!(
            "keeping   {} with {}",
            count(status.keeping, "mailbox of others", "mailboxes of others"),
            count(status.kept_items, "envelope", "envelopes")
        ),
    ];
    lines.push(format!(
        "traffic   {} in, {} out since the start",
        size(status.bytes_in),
        size(status.bytes_out)
    ));
    if status.outbox > 0 {
        lines.push(format!(
            "outbox    {} for another node",
            count(status.outbox, "sending waits", "sendings wait")
        ));
    }
    for one in &status.accounts {
        lines.push(String::new());
        lines.push(format!("{}  {}", flat(&one.account.name), one.account.id));
        lines.push(format!("  state     {}", one.account.state));
        lines.push(format!(
            "  keepers   {} of {} in {}",
            one.keepers,
            one.keepers_wanted,
            count(one.buildings as u64, "building", "buildings")
        ));
        lines.push(format!(
            "  messages  {} unread, {} not safe yet; {}",
            one.unread,
            one.waiting,
            count(one.contacts, "contact", "contacts")
        ));
        lines.push(match one.archive_behind {
            0 => "  archive   everything is safe".to_owned(),
            behind => format!(
                "  archive   {} not safe yet, for {} ms",
                count(behind, "step", "steps"),
                one.archive_behind_ms
            ),
        });
        if one.unopened > 0 {
            lines.push(format!(
                "  mail      {} could not be opened here: their senders are asked again; the account's words open \
                 them, too (pumasi restore --open-mail)",
                count(one.unopened, "envelope", "envelopes")
            ));
        }
        for (unit, balance) in &one.balances {
            lines.push(match balance.strip_prefix('-') {
                Some(debt) => format!("  balance   you owe {}", amount(debt, unit)),
                None if balance == "0" => format!("  balance   {}", amount(balance, unit)),
                None => format!("  balance   you are owed {}", amount(balance, unit)),
            });
        }
    }
    if status.accounts.is_empty() {
        lines.push("\nNo account here yet. Make one: pumasi account add NAME".to_owned());
    }
    if !status.alarms.is_empty() {
        lines.push(String::new());
        lines.extend(
            status
                .alarms
                .iter()
                .map(|alarm| format!("! {}", flat(alarm))),
        );
    }
    lines.join("\n")
}

fn place(building: &str, operator: &str) -> String {
    match (flat(building), flat(operator)) {
        (building, operator) if building.is_empty() && operator.is_empty() => "not said".to_owned(),
        (building, operator) if operator.is_empty() => building,
        (building, operator) if building.is_empty() => {
            format!("building not said, run by {operator}")
        }
        (building, operator) => format!("{building}, run by {operator}"),
    }
}

/// `pumasi keeper`.
#[derive(Debug, Subcommand)]
pub(crate) enum Keeper {
    /// List my keepers, and what would be lost if a building burned
    List,
    /// Ask a node to keep my mailbox
    Add {
        /// A contact (name or id: its home node), or a node id
        who: String,
    },
    /// Take a node off my list; what it promised to keep it keeps to its date
    Remove {
        /// Node id
        node: String,
    },
    /// List nodes that offer to keep for newcomers
    Offers,
    /// List mailboxes that this node keeps for others
    Keeping,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

impl Keeper {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        match self {
            Self::List => {
                let keepers: KeepersView = client.get("/keepers").await?;
                out.one(&keepers, kept_by)
            }
            Self::Add { who } => {
                let keepers: KeepersView = client.post("/keepers", &json!({ "who": who })).await?;
                say(&format!(
                    "Asked {}. Its answer shows in `pumasi keeper list`.",
                    flat(&short(&who))
                ));
                out.one(&keepers, kept_by)
            }
            Self::Remove { node } => {
                let keepers: KeepersView = client
                    .delete(&format!("/keepers/{}", segment(&node)))
                    .await?;
                out.one(&keepers, kept_by)
            }
            Self::Offers => {
                let peers: Items<PeerView> = client.get("/peers").await?;
                let offers: Vec<PeerView> = peers
                    .items
                    .into_iter()
                    .filter(|peer| peer.newcomers > 0 && !peer.blocked)
                    .collect();
                out.list(&offers, |offers| {
                    if offers.is_empty() {
                        return "No node known here offers to keep for newcomers.".to_owned();
                    }
                    let rows: Vec<_> = offers
                        .iter()
                        .map(|peer| {
                            vec![
                                peer.node.clone(),
                                flat(&peer.operator),
                                flat(&peer.building),
                                peer.newcomers.to_string(),
                            ]
                        })
                        .collect();
                    table(&["NODE", "OPERATOR", "BUILDING", "OFFERS"], &rows)
                })
            }
            Self::Keeping => {
                let kept: Items<KeptView> = client.get("/keeping").await?;
                out.list(&kept.items, |kept| {
                    if kept.is_empty() {
                        return "This node keeps no mailboxes of others.".to_owned();
                    }
                    let rows: Vec<_> = kept
                        .iter()
                        .map(|one| {
                            vec![
                                short(&one.account),
                                if one.contact { "contact" } else { "newcomer" }.to_owned(),
                                one.items.to_string(),
                                size(one.bytes),
                            ]
                        })
                        .collect();
                    table(&["ACCOUNT", "WHO", "ENVELOPES", "SIZE"], &rows)
                })
            }
        }
    }
}

fn kept_by(keepers: &KeepersView) -> String {
    let mut lines = Vec::new();
    if keepers.keepers.is_empty() {
        lines
            .push("Nobody keeps your mailbox: what is sent to you waits at the sender.".to_owned());
    } else {
        let rows: Vec<_> = keepers
            .keepers
            .iter()
            .map(|keeper| {
                vec![
                    keeper.node.clone(),
                    flat(&keeper.operator),
                    flat(&keeper.building),
                    session_of(keeper),
                    format!(
                        "{} of {}",
                        keeper.pages,
                        count(keepers.pages, "page", "pages")
                    ),
                ]
            })
            .collect();
        lines.push(table(
            &["NODE", "OPERATOR", "BUILDING", "CONNECTED", "SIGNED FOR"],
            &rows,
        ));
        lines.push(String::new());
    }
    let operators = match keepers.operators {
        0 if keepers.keepers.is_empty() => String::new(),
        0 => "; nobody says who runs them".to_owned(),
        named => format!(", run by {}", count(named as u64, "operator", "operators")),
    };
    lines.push(format!(
        "{} of {} keepers, in {}{operators}. Safe means: in {}.",
        keepers.keepers.len(),
        keepers.wanted,
        count(keepers.buildings as u64, "building", "buildings"),
        count(u64::from(keepers.safe_copies), "building", "buildings"),
    ));
    lines.extend(keepers.losses.iter().map(|loss| {
        format!(
            "{} {}",
            if loss.survives { "-" } else { "!" },
            flat(&loss.text)
        )
    }));
    if let Some(missing) = &keepers.missing {
        lines.push(format!("! {}", clean(missing)));
    }
    lines.extend(
        keepers
            .repairs
            .iter()
            .map(|line| format!("! {}", clean(line))),
    );
    lines.join("\n")
}

fn session_of(keeper: &KeeperView) -> String {
    let session = match &keeper.silent_since {
        _ if keeper.connected => "yes".to_owned(),
        Some(since) => format!("not since {}", time(since)),
        None => "no".to_owned(),
    };
    match keeper.lacks {
        _ if !keeper.joining => session,
        Some(lacks) => format!("{session}, joining ({lacks} to copy)"),
        None => format!("{session}, joining"),
    }
}

/// `pumasi peer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// List nodes known here
    List,
    /// Connect to a node
    Connect {
        /// Its address with its peer id: /ip4/.../udp/4040/quic-v1/p2p/12D3Koo...
        address: String,
    },
    /// Close the session with a node
    Disconnect {
        /// Node id
        node: String,
    },
    /// Never talk to a node
    Ban {
        /// Node id
        node: String,
    },
    /// Lift a ban
    Unban {
        /// Node id
        node: String,
    },
}

impl Peer {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        match self {
            Self::List => {
                let peers: Items<PeerView> = client.get("/peers").await?;
                out.list(&peers.items, |peers| {
                    if peers.is_empty() {
                        return "No other nodes known yet. Connect: pumasi peer connect ADDRESS"
                            .to_owned();
                    }
                    let rows: Vec<_> = peers
                        .iter()
                        .map(|peer| {
                            let state = match (peer.blocked, peer.connected) {
                                (true, _) => "banned",
                                (false, true) => "connected",
                                (false, false) => "away",
                            };
                            vec![
                                peer.node.clone(),
                                state.to_owned(),
                                flat(&peer.operator),
                                flat(&peer.building),
                                peer.address.as_deref().map(flat).unwrap_or_default(),
                            ]
                        })
                        .collect();
                    table(&["NODE", "STATE", "OPERATOR", "BUILDING", "ADDRESS"], &rows)
                })
            }
            Self::Connect { address } => {
                let answer: Value = client
                    .post("/peers", &json!({ "address": address }))
                    .await?;
                out.one(&answer, |_| {
                    "Connecting; see `pumasi peer list`.".to_owned()
                })
            }
            Self::Disconnect { node } => {
                client
                    .delete::<()>(&format!("/peers/{}", segment(&node)))
                    .await?;
                out.one(&json!({ "disconnected": node }), |_: &Value| {
                    format!("The session with {} is closed.", flat(&node))
                })
            }
            Self::Ban { node } => ban(session, &node, true).await,
            Self::Unban { node } => ban(session, &node, false).await,
        }
    }
}

async fn ban(session: &Session, node: &str, blocked: bool) -> Result<()> {
    let path = format!("/peers/{}/block", segment(node));
    let answer: Value = session
        .client
        .post(&path, &json!({ "blocked": blocked }))
        .await?;
    session.out.one(&answer, |_| {
        if blocked {
            format!("{} is banned.", flat(node))
        } else {
            format!("{} is not banned any more.", flat(node))
        }
    })
}
