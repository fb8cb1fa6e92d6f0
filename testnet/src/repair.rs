//! Whether everybody's keepers are whole again after a fire: asked over the API, again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::people::Person;
use crate::traffic::Stage;
use crate::view::Board;

/// How often everybody is asked.
const LOOK: Duration = Duration::from_millis(250);

/// Whether an account has so many keepers in buildings apart, none of them burned, none being filled.
pub(crate) async fn is_whole(
    person: &Person,
    wanted: usize,
    burned: &BTreeSet<String>,
) -> Result<bool> {
    let view: Value = person.client.get("/keepers").await?;
    let keepers = view["keepers"].as_array().map(Vec::as_slice).unwrap_or(&[]);
    let good = |keeper: &&Value| {
        keeper["joining"] != true
            && keeper["gone"].is_null()
            && keeper["node"]
                .as_str()
                .is_some_and(|node| !burned.contains(node))
    };
    let apart: BTreeSet<_> = keepers
        .iter()
        .filter(good)
        .filter_map(|keeper| keeper["building"].as_str())
        .collect();
    Ok(keepers.iter().all(|keeper| good(&keeper)) && apart.len() >= wanted)
}

/// Accounts that are whole now.
pub(crate) async fn whole(stage: &Stage, wanted: usize, burned: &BTreeSet<String>) -> usize {
    let mut whole = 0;
    for (_, person) in stage.living() {
        // A node that does not answer now is asked again.
        whole += usize::from(is_whole(&person, wanted, burned).await.unwrap_or(false));
    }
    whole
}

/// Waits until all accounts are, those that burned included; the moment, microseconds after traffic began.
pub(crate) async fn repaired(
    stage: &Stage,
    wanted: usize,
    burned: &BTreeSet<String>,
    board: &Board,
) -> u64 {
    loop {
        let whole = whole(stage, wanted, burned).await;
        let all = stage.people.len();
        board.copies(whole, all);
        if whole == all {
            return stage.now();
        }
        tokio::time::sleep(LOOK).await;
    }
}
