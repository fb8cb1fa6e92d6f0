//! What the nodes say they hold, asked over their API: the other half of the reckoning.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use pumasi_node::view::{ChatView, ContactView, LineView, MessageView, PaymentView};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::people::{Items, Person};

/// Entries asked for at once.
const PAGE: usize = 500;
/// Pages of one list that are read at most.
const PAGES_MAX: usize = 1_000;

/// What one account's node shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// By the contact's account id; in the order of the list.
    pub(crate) chats: BTreeMap<String, Vec<MessageView>>,
    pub(crate) payments: Vec<PaymentView>,
    pub(crate) lines: Vec<LineView>,
    pub(crate) contacts: Vec<ContactView>,
}

/// What the nodes answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// By index of the account; burned ones that are not back, and those whose node did not answer, are absent.
    pub(crate) accounts: BTreeMap<usize, Account>,
    /// Why a node could not be asked.
    pub(crate) trouble: Vec<String>,
}

/// Asks the nodes of these accounts for everything.
pub(crate) async fn collect(people: &[(usize, Person)]) -> Result<Findings> {
    let mut work = JoinSet::new();
    for (index, person) in people.iter().cloned() {
        work.spawn(async move { (index, read(&person).await, person.name) });
    }
    let mut findings = Findings::default();
    while let Some(result) = work.join_next().await {
        match result? {
            (index, Ok(account), _) => drop(findings.accounts.insert(index, account)),
            (_, Err(error), name) => {
                let text =
                    format!("the node of {name} could not be asked what it holds: {error:#}");
                findings.trouble.push(text);
            }
        }
    }
    Ok(findings)
}

/// Everything that one account's node shows.
pub(crate) async fn read(person: &Person) -> Result<Account> {
    let mut account = Account::default();
    let chats: Items<ChatView> = person.client.get("/chats").await?;
    for chat in chats.items {
        let path = format!("/chats/{}/messages", chat.contact);
        // A chat without a place in it: its end, and then page by page towards its beginning.
        let mut pages = pages(person, &path, "before").await?;
        pages.reverse();
        account.chats.insert(chat.contact, pages.concat());
    }
    account.payments = pages(person, "/payments", "after").await?.concat();
    let lines: Items<LineView> = person.client.get("/credit-lines").await?;
    account.lines = lines.items;
    let contacts: Items<ContactView> = person.client.get("/contacts").await?;
    account.contacts = contacts.items;
    Ok(account)
}

/// All pages of a list, in the direction of `next`.
async fn pages<T: DeserializeOwned>(
    person: &Person,
    list: &str,
    direction: &str,
) -> Result<Vec<Vec<T>>> {
    let mut pages = Vec::new();
    let mut path = format!("{list}?limit={PAGE}");
    loop {
        let page: Items<T> = person.client.get(&path).await?;
        pages.push(page.items);
        let Some(next) = page.next else {
            return Ok(pages);
        };
        // An endless list must not make an endless test.
        ensure!(pages.len() < PAGES_MAX, "{list} has no end");
        path = format!("{list}?limit={PAGE}&{direction}={next}");
    }
}
