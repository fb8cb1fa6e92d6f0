//! The way back: burned accounts restored from their words on nodes of other buildings, over the API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pumasi_node::ErrorKind;
use pumasi_node::client::Client;
use pumasi_node::view::{KeepersView, RestoreReport, RestoreView};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::auditor::Entry;
use crate::findings::read;
use crate::network::{LOOK, Network};
use crate::people::{Person, until};
use crate::traffic::{Stage, repeat};
use crate::view::Board;
use crate::workload::Operation;

/// How long a restore may take.
const RESTORE: Duration = Duration::from_secs(60);
/// Of those who come back, one in so many comes back on a node that is a keeper of theirs.
const KEEPER_ONE_IN: usize = 3;
/// Operations of each account that are called again with their old key, of each kind.
const REPEATS: usize = 3;

/// What became of those who burned. The names are those of the JSON file.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Restored {
    /// Accounts that burned.
    pub(crate) accounts: usize,
    /// Of these, how many are back with everything that was safe.
    pub(crate) complete: usize,
    /// From the call until the lists of the restored account can be read, the slowest.
    pub(crate) slowest_ms: u64,
    /// Texts and IOUs that were called safe and are missing.
    pub(crate) missing_safe: u64,
    /// From the end of a restore until its first payment was accepted, the slowest.
    pub(crate) paid_after_ms: Option<u64>,
    /// How many came back on a node that was their keeper.
    pub(crate) on_keepers: usize,
    /// Texts and IOUs of the burned that nobody had called safe, and that are gone.
    pub(crate) never_safe: u64,
    /// Calls repeated after the restore with a key from before.
    pub(crate) repeated: u64,
    /// Pairs of contacts that burned together.
    pub(crate) burned_pairs: usize,
    /// What the reports of the restores say is missing.
    pub(crate) said_missing: Vec<String>,
}

/// One account and where it comes back.
#[derive(Debug, Clone)]
pub(crate) struct Return {
    pub(crate) account: usize,
    /// Index of the node.
    pub(crate) node: usize,
    client: Client,
    /// Whether that node is one of its keepers.
    keeper: bool,
}

/// Which nodes keep for the accounts, by node id.
pub(crate) async fn keepers_of(people: &[Person]) -> Result<Vec<BTreeSet<String>>> {
    let mut all = Vec::new();
    for person in people {
        let view: KeepersView = person.client.get("/keepers").await?;
        all.push(view.keepers.into_iter().map(|k| k.node).collect());
    }
    Ok(all)
}

/// Chooses where each comes back: spread over the nodes that stand, some at a keeper of theirs.
pub(crate) fn choose(
    network: &Network,
    burned: &[usize],
    keepers: &[BTreeSet<String>],
) -> Vec<Return> {
    let standing = network.standing();
    let mut load: BTreeMap<usize, usize> = standing.iter().map(|&node| (node, 0)).collect();
    burned
        .iter()
        .zip(keepers)
        .enumerate()
        .filter_map(|(place, (&account, keepers))| {
            let wanted = place.is_multiple_of(KEEPER_ONE_IN);
            let is_keeper = |node: usize| keepers.contains(&network.nodes[node].id);
            let least = |like: bool| {
                let nodes = standing.iter().filter(|&&n| is_keeper(n) == like);
                // Not always the first ones of the list.
                nodes
                    .copied()
                    .min_by_key(|node| (load[node], (node * 7 + account * 5) % standing.len()))
            };
            let node = least(wanted).or_else(|| least(!wanted))?;
            *load.entry(node).or_insert(0) += 1;
            Some(Return {
                account,
                node,
                client: network.nodes[node].client.clone(),
                keeper: is_keeper(node),
            })
        })
        .collect()
}

/// Brings them all back at the same time. Sentences about promises that did not hold go to `broken`.
pub(crate) async fn come_back(
    stage: &Stage,
    returns: Vec<Return>,
    board: &Board,
    sum: &mut Restored,
    broken: &mut Vec<String>,
) -> Result<()> {
    let mut work = JoinSet::new();
    for one in returns {
        sum.accounts += 1;
        sum.on_keepers += usize::from(one.keeper);
        board.returning(one.account, "begins");
        let (stage, board) = (stage.clone(), board.clone());
        work.spawn(async move {
            let result = restore(&stage, &one, &board).await;
            (one, result)
        });
    }
    while let Some(result) = work.join_next().await {
        let (one, result) = result?;
        let name = &stage.people[one.account].name;
        match result {
            Ok(back) => {
                let RestoreReport {
                    complete, missing, ..
                } = back.report;
                sum.complete += usize::from(complete);
                sum.slowest_ms = sum.slowest_ms.max(back.millis);
                sum.repeated += back.repeated;
                if !complete {
                    broken.push(format!("{name} came back, and not completely"));
                }
                broken.extend(back.broken);
                sum.said_missing
                    .extend(missing.into_iter().map(|text| format!("{name}: {text}")));
            }
            Err(error) => {
                stage.auditor().people[one.account].lost = true;
                board.returning(one.account, "did not come back");
                broken.push(format!("{name} could not be restored: {error:#}"));
            }
        }
    }
    Ok(())
}

/// One who is back.
struct Back {
    report: RestoreReport,
    millis: u64,
    repeated: u64,
    broken: Vec<String>,
}

async fn restore(stage: &Stage, one: &Return, board: &Board) -> Result<Back> {
    let person = &stage.people[one.account];
    let begun = Instant::now();
    let path = format!("/restores/{}", person.id);
    let body = json!({"phrase": person.phrase});
    let mut view: RestoreView = until("a restore is begun", RESTORE, || async {
        match one.client.post("/restores", &body).await {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let report = loop {
        board.returning(one.account, &view.text);
        match (view.state.as_str(), view.report) {
            ("done", Some(report)) => break report,
            ("failed", _) => bail!("{}", view.text),
            _ => ensure!(
                begun.elapsed() < RESTORE,
                "not within {} s: {} ({} of {} keepers read)",
                RESTORE.as_secs(),
                view.text,
                view.keepers_read,
                view.keepers
            ),
        }
        tokio::time::sleep(LOOK).await;
        view = one.client.get(&path).await?;
    };
    let client = one.client.clone().with_account(Some(&person.id));
    let here = Person {
        client: client.clone(),
        ..person.clone()
    };
    read(&here)
        .await
        .context("its lists cannot be read after the restore")?;
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let old = old_calls(stage, one.account);
    stage.back(one.account, client);
    board.returned(one.account, one.node);
    let (repeated, broken) = repeat_all(stage, old).await;
    Ok(Back {
        report,
        millis,
        repeated,
        broken,
    })
}

/// Some of the latest calls of an account that had their effect for ever: proven safe before it burned.
fn old_calls(stage: &Stage, account: usize) -> Vec<(Operation, String)> {
    let auditor = stage.auditor();
    let lasting = |entry: &&Entry| {
        let said = entry.id().and_then(|id| auditor.said.get(id));
        said.is_some_and(|said| said.safe.is_some())
    };
    let mut left = [REPEATS; 2];
    auditor
        .entries
        .iter()
        .rev()
        .filter(|entry| entry.operation.from == account)
        .filter(lasting)
        .filter(|entry| {
            let left = &mut left[usize::from(entry.operation.is_text())];
            let more = *left > 0;
            *left = left.saturating_sub(1);
            more
        })
        .filter_map(|entry| {
            let mut operation = entry.operation.clone();
            operation.twice = false;
            Some((operation, entry.id()?.to_owned()))
        })
        .collect()
}

/// Calls them again with their old keys: each must answer what it answered.
async fn repeat_all(stage: &Stage, old: Vec<(Operation, String)>) -> (u64, Vec<String>) {
    let mut broken = Vec::new();
    let count = old.len() as u64;
    for (operation, id) in old {
        let number = operation.number;
        let said = match repeat(stage, &operation).await {
            Ok(again) if again == id => continue,
            Ok(again) => format!("made once more, as {again}"),
            Err(error) => format!("refused: {error}"),
        };
        broken.push(format!(
            "#{number} was repeated with its key after the restore, and {said}"
        ));
    }
    (count, broken)
}
