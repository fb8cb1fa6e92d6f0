//! What people do besides texts and IOUs, on one node: read marks, limits, names, accounts, contacts. It
//! keeps its own record and compares it at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use pumasi_node::client::{Client, segment};
use pumasi_node::view::{AccountView, ContactView, InvitationView, LineView};
use pumasi_node::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::people::{Items, until};
use crate::traffic::Stage;

/// The unit of these limits; the auditor's IOUs have another.
const UNIT: &str = "HUR";
/// Accounts made at most.
const ACCOUNTS_MAX: usize = 6;
/// How long one chore is tried.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two chores, and two attempts at one.
const PAUSE: Duration = Duration::from_millis(20);
/// How long what was done may take to show at both ends.
const SETTLE: Duration = Duration::from_secs(30);

/// What was done, as the ones who did it were answered.
#[derive(Debug)]
pub(crate) struct Chores {
    client: Client,
    /// Chores that were acknowledged.
    pub(crate) done: u64,
    /// By the two accounts: the limit given last.
    limits: BTreeMap<(usize, usize), u64>,
    /// By the two accounts: what one calls the other.
    names: BTreeMap<(usize, usize), String>,
    accounts: BTreeSet<String>,
    /// By the new account's name: the id of the account whose invitation it took, which is new, too: the
    /// auditor knows nothing of either.
    contacts: BTreeMap<String, String>,
    broken: Vec<String>,
}

impl Chores {
    /// Does chores for these pairs, of which the first one has its home on the client's node, until
    /// traffic is over.
    pub(crate) async fn keep_busy(
        stage: Stage,
        client: Client,
        pairs: Vec<(usize, usize)>,
    ) -> Self {
        let mut chores = Self {
            client,
            done: 0,
            limits: BTreeMap::new(),
            names: BTreeMap::new(),
            accounts: BTreeSet::new(),
            contacts: BTreeMap::new(),
            broken: Vec::new(),
        };
        for (number, pair) in (1_u64..).zip(pairs.iter().cycle()) {
            if stage.is_over() {
                break;
            }
            match chores.one(&stage, number, *pair).await {
                Ok(()) => chores.done += 1,
                Err(error) => chores
                    .broken
                    .push(format!("chore {number} failed: {error}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
        chores
    }

    async fn one(&mut self, stage: &Stage, number: u64, pair: (usize, usize)) -> Result<(), Error> {
        let (me, other) = (&stage.people[pair.0], &stage.people[pair.1]);
        match number % 4 {
            0 => {
                let (path, body) = (format!("/chats/{}/read", other.id), json!({}));
                let _: Value = insist(|| me.client.post(&path, &body)).await?;
            }
            1 => {
                let limit = json!({"amount": number.to_string(), "currency": UNIT});
                let body = json!({"with": other.id, "limit": limit});
                let _: LineView = insist(|| me.client.post("/credit-lines", &body)).await?;
                self.limits.insert(pair, number);
            }
            2 => {
                let name = format!("friend {number}");
                let path = format!("/contacts/{}", other.id);
                let body = json!({"name": name});
                let _: ContactView = insist(|| me.client.patch(&path, &body)).await?;
                self.names.insert(pair, name);
            }
            _ if self.accounts.len() < ACCOUNTS_MAX => {
                let name = format!("extra {number}");
                account(&self.client, &name).await?;
                self.accounts.insert(name.clone());
                // On the other one's node.
                let hosts = other.client.clone().with_account(None);
                let host_name = format!("host {number}");
                account(&hosts, &host_name).await?;
                let path = format!("/accounts/{}", segment(&host_name));
                let host: AccountView = insist(|| hosts.get(&path)).await?;
                let host_client = hosts.with_account(Some(&host.id));
                let body = json!({"name": name});
                let invitation: InvitationView =
                    insist(|| host_client.post("/invitations", &body)).await?;
                let new = self.client.clone().with_account(Some(&name));
                let body = json!({"uri": invitation.link, "name": "host"});
                match insist(|| new.post::<ContactView>("/contacts", &body)).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Exists => {}
                    Err(error) => return Err(error),
                }
                self.contacts.insert(name, host.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// What is not as it was acknowledged, in sentences.
    pub(crate) async fn check(mut self, stage: &Stage) -> Vec<String> {
        for (&(me, other), &limit) in &self.limits {
            let (me, other) = (&stage.people[me], &stage.people[other]);
            let what = format!(
                "{} and {} see the limit of {limit} {UNIT}",
                me.name, other.name
            );
            let found = until(&what, SETTLE, || async {
                let here = line(&me.client, &other.id).await?;
                let there = line(&other.client, &me.id).await?;
                let limit = limit.to_string();
                Ok((here.is_some_and(|line| line.limit_given == limit)
                    && there.is_some_and(|line| line.limit_received == limit))
                .then_some(()))
            });
            if let Err(error) = found.await {
                self.broken.push(format!("{error:#}"));
            }
        }
        for (&(me, other), name) in &self.names {
            let (me, other) = (&stage.people[me], &stage.people[other]);
            match me
                .client
                .get::<ContactView>(&format!("/contacts/{}", other.id))
                .await
            {
                Ok(contact) if contact.name == *name => {}
                Ok(contact) => self.broken.push(format!(
                    "{} called {} `{name}`, and now it is `{}`",
                    me.name, other.name, contact.name
                )),
                Err(error) => self.broken.push(format!("{}: {error}", me.name)),
            }
        }
        match self.client.get::<Items<AccountView>>("/accounts").await {
            Ok(list) => {
                for name in &self.accounts {
                    let found = list
                        .items
                        .iter()
                        .filter(|account| account.name == *name)
                        .count();
                    if found != 1 {
                        self.broken
                            .push(format!("account `{name}` is there {found} times"));
                    }
                }
            }
            Err(error) => self
                .broken
                .push(format!("accounts cannot be listed: {error}")),
        }
        for (name, host) in &self.contacts {
            let new = self.client.clone().with_account(Some(name));
            let what = format!("the contact of `{name}` is active");
            let found = until(&what, SETTLE, || async {
                let list: Items<ContactView> = new.get("/contacts").await?;
                let active =
                    |contact: &ContactView| contact.id == *host && contact.state == "active";
                Ok(list.items.iter().any(active).then_some(()))
            });
            if let Err(error) = found.await {
                self.broken.push(format!("{error:#}"));
            }
        }
        self.broken
    }
}

async fn line(client: &Client, other: &str) -> Result<Option<LineView>> {
    let lines: Items<LineView> = client.get("/credit-lines").await?;
    let wanted = |line: &LineView| line.contact == other && line.unit == UNIT;
    Ok(lines.items.into_iter().find(wanted))
}

/// Makes an account.
async fn account(client: &Client, name: &str) -> Result<(), Error> {
    let body = json!({"name": name});
    match insist(|| client.post::<Value>("/accounts", &body)).await {
        // The attempt before it had its effect, and its answer was lost.
        Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Calls until there is an outcome. All chores may be repeated: they say how it shall be.
async fn insist<T, Call>(mut call: impl FnMut() -> Call) -> Result<T, Error>
where
    Call: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    loop {
        match call().await {
            Err(error)
                if (error.kind().retryable()
                    || matches!(error.kind(), ErrorKind::Storage | ErrorKind::Internal))
                    && begun.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}
