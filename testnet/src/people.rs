//! Accounts, contacts and lines on a running network: made over the API, and waited for.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use pumasi_node::ErrorKind;
use pumasi_node::client::Client;
use pumasi_node::view::{ContactView, InvitationView, KeepersView, LineView, NewAccountView};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::network::{LOOK, Network};
use crate::options::KEEPERS;
use crate::society::{Friendship, UNIT, name};
use crate::view::Board;

/// How long one step of setting up may take.
const STEP: Duration = Duration::from_secs(90);
/// How many friendships are made at the same time.
const AT_ONCE: usize = 8;

/// A list as the API answers it.
#[derive(Debug, Deserialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
    /// The id to go on after, where there are more.
    #[serde(default)]
    pub(crate) next: Option<String>,
}

/// An account of the run.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) name: String,
    /// Account id.
    pub(crate) id: String,
    /// Speaks for this account.
    pub(crate) client: Client,
    /// Its 24 words.
    pub(crate) phrase: String,
}

impl Person {
    async fn line(&self, other: &str) -> Result<Option<LineView>> {
        let lines: Items<LineView> = self.client.get("/credit-lines").await?;
        Ok(lines
            .items
            .into_iter()
            .find(|line| line.contact == other && line.unit == UNIT))
    }

    async fn is_active(&self, other: &str) -> Result<bool> {
        let contacts: Items<ContactView> = self.client.get("/contacts").await?;
        Ok(contacts
            .items
            .iter()
            .any(|c| c.id == other && c.state == "active"))
    }

    async fn give(&self, other: &str, limit: u64) -> Result<()> {
        let body = json!({"with": other, "limit": {"amount": limit.to_string(), "currency": UNIT}});
        let _: LineView = self.client.post("/credit-lines", &body).await?;
        Ok(())
    }
}

/// Looks until there is something, with a bound. `what` completes "gave up waiting until ...".
pub(crate) async fn until<T, F, Look>(what: &str, bound: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Look,
    Look: Future<Output = Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        let last = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() > bound {
            let error = anyhow!("gave up waiting for {} s until {what}", bound.as_secs());
            return Err(match last {
                None => error,
                Some(cause) => cause.context(error.to_string()),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes accounts spread evenly over the nodes, and waits until each has its keepers.
pub(crate) async fn arrive(
    network: &Network,
    buildings: usize,
    homes: &[usize],
    board: &Board,
) -> Result<Vec<Person>> {
    let mut people = Vec::new();
    for (account, &node) in homes.iter().enumerate() {
        board.phase(format!("{} of {} accounts made", account, homes.len()));
        let client = &network.nodes[node].client;
        let name = name(account);
        let made: NewAccountView = client
            .post("/accounts", &json!({"name": name}))
            .await
            .with_context(|| format!("{} cannot make an account", network.nodes[node].spec.name))?;
        let id = made.account.id;
        let client = client.clone().with_account(Some(&id));
        let phrase = made.phrase.join(" ");
        people.push(Person {
            name,
            id,
            client,
            phrase,
        });
    }
    // With fewer buildings than keepers, every building but the own one is what can be had.
    let wanted = KEEPERS.min(buildings - 1);
    for (account, person) in people.iter().enumerate() {
        board.phase(format!(
            "{account} of {} accounts have their keepers",
            people.len()
        ));
        let what = format!("{} has keepers in {wanted} buildings", person.name);
        until(&what, STEP, || async {
            let keepers: KeepersView = person.client.get("/keepers").await?;
            let apart: BTreeSet<_> = keepers.keepers.iter().map(|k| &k.building).collect();
            Ok((apart.len() >= wanted).then_some(()))
        })
        .await?;
    }
    Ok(people)
}

/// Makes contacts by invitation and opens lines both ways; waits until both ends know everything.
pub(crate) async fn befriend(
    people: &[Person],
    friendships: &[Friendship],
    board: &Board,
) -> Result<()> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut work = JoinSet::new();
    for friendship in friendships.iter().copied() {
        let (a, b) = (people[friendship.a].clone(), people[friendship.b].clone());
        let turns = Arc::clone(&turns);
        work.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            meet(&a, &b, friendship)
                .await
                .with_context(|| format!("{} and {} cannot become contacts", a.name, b.name))
        });
    }
    let mut done = 0;
    while let Some(result) = work.join_next().await {
        result??;
        done += 1;
        board.phase(format!(
            "{done} of {} friendships made, lines open",
            friendships.len()
        ));
    }
    Ok(())
}

async fn meet(a: &Person, b: &Person, friendship: Friendship) -> Result<()> {
    let invitation: InvitationView = a
        .client
        .post("/invitations", &json!({"name": b.name}))
        .await?;
    // Both may be right and the other end still on its way: busy nodes are asked again.
    until("an invitation is taken", STEP, || async {
        let body = json!({"uri": invitation.link, "name": a.name});
        match b.client.post::<ContactView>("/contacts", &body).await {
            Ok(contact) => Ok(Some(contact)),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    until("both ends are active", STEP, || async {
        Ok((a.is_active(&b.id).await? && b.is_active(&a.id).await?).then_some(()))
    })
    .await?;
    a.give(&b.id, friendship.a_gives).await?;
    b.give(&a.id, friendship.b_gives).await?;
    let (a_gives, b_gives) = (
        friendship.a_gives.to_string(),
        friendship.b_gives.to_string(),
    );
    until("both ends know both limits", STEP, || async {
        let (Some(at_a), Some(at_b)) = (a.line(&b.id).await?, b.line(&a.id).await?) else {
            return Ok(None);
        };
        let known = at_a.limit_given == a_gives
            && at_a.limit_received == b_gives
            && at_b.limit_given == b_gives
            && at_b.limit_received == a_gives;
        Ok(known.then_some(()))
    })
    .await
}
