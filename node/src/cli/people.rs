//! `id` and `contact`: who I am, whom I know, and how we met.

use clap::Subcommand;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal};

use super::Session;
use super::print::{clean, flat, line, say, short, table, time};
use crate::client::segment;
use crate::error::Result;
use crate::view::{AccountView, ContactView, InvitationView, NodeView};

/// Modules of a QR code, with its margin, beyond which a terminal of 80 columns cannot show it.
const TERMINAL_COLUMNS: usize = 80;

/// `pumasi contact`.
#[derive(Debug, Subcommand)]
pub(crate) enum Contact {
    /// Make an invitation: a link, and a QR code on a terminal
    Invite {
        /// Name that you give the person who accepts
        #[arg(long)]
        name: Option<String>,
        /// Print the QR code, also where stdout is not a terminal
        #[arg(long)]
        qr: bool,
    },
    /// List contacts
    List,
    /// Accept an invitation
    Add {
        /// The link of the invitation, `pumasi:...`
        uri: String,
        /// Name that you give the contact
        #[arg(long)]
        name: Option<String>,
    },
    /// Show a contact
    Show {
        /// Name, id, or the first 8 characters or more of the id
        who: String,
    },
    /// Note that you compared fingerprints
    Verify {
        /// Name or id
        who: String,
        /// The 30 digits that the contact sees as its own fingerprint
        #[arg(required = true)]
        fingerprint: Vec<String>,
    },
    /// Give a contact another name
    Rename {
        /// Name or id
        who: String,
        /// The new name
        name: String,
    },
    /// Take nothing more from a contact
    Block {
        /// Name or id
        who: String,
    },
    /// Lift a block
    Unblock {
        /// Name or id
        who: String,
    },
    /// Remove a contact
    Remove {
        /// Name or id
        who: String,
    },
}

#[derive(Deserialize)]
struct Contacts {
    items: Vec<ContactView>,
}

impl Contact {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        let at = |who: &str| format!("/contacts/{}", segment(who));
        match self {
            Self::Invite { name, qr } => {
                let invitation: InvitationView = client
                    .post("/invitations", &json!({ "name": name }))
                    .await?;
                if out.is_json() {
                    return out.one(&invitation, |_| String::new());
                }
                line(&invitation.link)?;
                if qr || io::stdout().is_terminal() {
                    match code(&invitation.qr) {
                        Some((text, columns)) => {
                            line(&text)?;
                            if columns > TERMINAL_COLUMNS {
                                say(&format!("The code needs a window of {columns} columns."));
                            }
                        }
                        None => say("The invitation is too long for a QR code: send the link."),
                    }
                }
                say(&format!(
                    "For one person, until {}. Compare fingerprints when they accept; yours is {}",
                    time(&invitation.expires),
                    invitation.fingerprint
                ));
                if let Some(warning) = &invitation.warning {
                    say(&format!("Note: {}", clean(warning)));
                }
                Ok(())
            }
            Self::List => {
                let contacts: Contacts = client.get("/contacts").await?;
                out.list(&contacts.items, |contacts| {
                    if contacts.is_empty() {
                        return "No contacts yet. Invite somebody: pumasi contact invite"
                            .to_owned();
                    }
                    let rows: Vec<_> = contacts
                        .iter()
                        .map(|contact| {
                            vec![
                                flat(&contact.name),
                                short(&contact.id),
                                states(contact),
                                contact.keepers.to_string(),
                            ]
                        })
                        .collect();
                    table(&["NAME", "ID", "STATE", "KEEPERS"], &rows)
                })
            }
            Self::Add { uri, name } => {
                let contact: ContactView = client
                    .post("/contacts", &json!({ "uri": uri.trim(), "name": name }))
                    .await?;
                out.one(&contact, |contact| {
                    format!(
                        "{} is a contact now ({}).\n\
                         Ask for the 30 digits that they see as their own fingerprint (pumasi id), by \
                         voice or face to face, and type them:\n\
                         \x20 pumasi contact verify {} THEIR-DIGITS",
                        flat(&contact.name),
                        contact.id,
                        shell_word(&contact.name),
                    )
                })
            }
            Self::Show { who } => {
                let contact: ContactView = client.get(&at(&who)).await?;
                out.one(&contact, shown)
            }
            Self::Verify { who, fingerprint } => {
                let body = json!({ "fingerprint": fingerprint.join(" ") });
                let contact: ContactView =
                    client.post(&format!("{}/verify", at(&who)), &body).await?;
                out.one(&contact, |contact| {
                    format!(
                        "{} is verified: the fingerprints agree.",
                        flat(&contact.name)
                    )
                })
            }
            Self::Rename { who, name } => {
                let contact: ContactView =
                    client.patch(&at(&who), &json!({ "name": name })).await?;
                out.one(&contact, |contact| {
                    format!("{} is called {} now.", flat(&who), flat(&contact.name))
                })
            }
            Self::Block { who } => block(session, &at(&who), true).await,
            Self::Unblock { who } => block(session, &at(&who), false).await,
            Self::Remove { who } => {
                client.delete::<()>(&at(&who)).await?;
                out.one(&json!({ "removed": who }), |_: &Value| {
                    format!("{} is removed.", flat(&who))
                })
            }
        }
    }
}

async fn block(session: &Session, at: &str, blocked: bool) -> Result<()> {
    let contact: ContactView = session
        .client
        .post(&format!("{at}/block"), &json!({ "blocked": blocked }))
        .await?;
    session.out.one(&contact, |contact| {
        let name = flat(&contact.name);
        if blocked {
            format!("{name} is blocked: nothing more is taken from them.")
        } else {
            format!("{name} is not blocked any more.")
        }
    })
}

fn states(contact: &ContactView) -> String {
    let mut words = vec![clean(&contact.state)];
    if contact.verified {
        words.push("verified".to_owned());
    }
    if contact.blocked {
        words.push("blocked".to_owned());
    }
    words.join(", ")
}

fn shown(contact: &ContactView) -> String {
    let own_name = match flat(&contact.own_name) {
        name if name.is_empty() || name == contact.name => String::new(),
        name => format!(" (calls itself {name})"),
    };
    format!(
        "{}{own_name}\n  id           {}\n  fingerprint  {}{}\n  state        {}\n  home node    {}\n  \
         keepers      {}\n  added        {}",
        flat(&contact.name),
        contact.id,
        contact.fingerprint,
        if contact.verified {
            ""
        } else {
            "  (not compared yet)"
        },
        states(contact),
        contact.node,
        contact.keepers,
        time(&contact.added)
    )
}

/// A name as one word of a shell.
fn shell_word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", flat(name).replace('\'', "'\\''"))
    }
}

/// A QR code in half blocks, light on dark, with the columns it takes; `None` when it does not fit.
fn code(text: &str) -> Option<(String, usize)> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let columns = code.width() + 8;
    let text = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    Some((text, columns))
}

/// `pumasi id`.
pub(crate) async fn id(session: &Session) -> Result<()> {
    #[derive(Deserialize)]
    struct Accounts {
        items: Vec<AccountView>,
    }
    let node: NodeView = session.client.get("/node").await?;
    let accounts: Accounts = session.client.get("/accounts").await?;
    let answer = json!({ "accounts": accounts.items, "node": node });
    session.out.one(&answer, |_| {
        let mut lines = Vec::new();
        for account in &accounts.items {
            lines.push(flat(&account.name));
            lines.push(format!("  id           {}", account.id));
            lines.push(format!("  fingerprint  {}", account.fingerprint));
        }
        if accounts.items.is_empty() {
            lines.push("No account here yet. Make one: pumasi account add NAME".to_owned());
        }
        lines.push("node".to_owned());
        lines.push(format!("  id           {}", node.id));
        for address in &node.addresses {
            lines.push(format!("  address      {}", clean(address)));
        }
        lines.join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_invitation_is_no_code_and_a_short_one_is() {
        let (text, columns) = code(&"A".repeat(300)).unwrap();
        assert!(columns < TERMINAL_COLUMNS);
        assert_eq!(text.lines().next().unwrap().chars().count(), columns);
        assert!(code(&"A".repeat(5_000)).is_none());
    }

    #[test]
    fn a_name_is_safe_to_paste_into_a_shell() {
        assert_eq!(shell_word("보라"), "보라");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("a'; rm"), "'a'\\''; rm'");
        assert_eq!(shell_word("$(x)"), "'$(x)'");
    }
}
