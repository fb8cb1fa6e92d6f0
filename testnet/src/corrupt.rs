//! Corrupt: data directories of stopped daemons damaged in many ways, and a daemon started on each. It must
//! refuse in words, or show exactly what was there before. Where a whole older state was put back, it may
//! show that: nothing on one disk can tell, only the others can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use pumasi_node::client::Client;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use serde_json::{Value, json};

use crate::images::{copy_directory, start};
use crate::layout::Layout;
use crate::network::{RunDirectory, Spec};
use crate::options::CorruptOptions;
use crate::storm::{Storm, Weather};
use crate::table::{Table, say};
use crate::trial::{self, Finding};

/// The node whose data is damaged.
const VICTIM: usize = 1;
const NODES: usize = 3;
const ACCOUNTS: usize = 6;
const RATE: u32 = 25;
/// Operations before the damage.
const OPERATIONS: u64 = 60;
/// How long these may take.
const PATIENCE: Duration = Duration::from_secs(90);
const PAGE: usize = 4_096;
/// Bytes before the first frame of a log, before the page in a frame, and of a frame.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const FRAME: usize = FRAME_HEADER + PAGE;

/// A way to damage a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Damage {
    BitsFlipped,
    SectorZeroed,
    SectorOfNoise,
    PagesSwapped,
    PageElsewhere,
    CutOff,
    Emptied,
    Deleted,
    Foreign,
    FileRolledBack,
    AllRolledBack,
    LogDeleted,
    LogEmptied,
    LogBitsFlipped,
    LogCut,
    SumsDamaged,
    SumsDeleted,
    KeyDamaged,
    KeyDeleted,
    KeyOfAnother,
}

const ALL: [Damage; 20] = [
    Damage::BitsFlipped,
    Damage::SectorZeroed,
    Damage::SectorOfNoise,
    Damage::PagesSwapped,
    Damage::PageElsewhere,
    Damage::CutOff,
    Damage::Emptied,
    Damage::Deleted,
    Damage::Foreign,
    Damage::FileRolledBack,
    Damage::AllRolledBack,
    Damage::LogDeleted,
    Damage::LogEmptied,
    Damage::LogBitsFlipped,
    Damage::LogCut,
    Damage::SumsDamaged,
    Damage::SumsDeleted,
    Damage::KeyDamaged,
    Damage::KeyDeleted,
    Damage::KeyOfAnother,
];

impl Damage {
    fn words(self) -> &'static str {
        match self {
            Self::BitsFlipped => "bits flipped in the database",
            Self::SectorZeroed => "a sector of zeros",
            Self::SectorOfNoise => "a sector of noise",
            Self::PagesSwapped => "two pages swapped",
            Self::PageElsewhere => "a page written elsewhere, too",
            Self::CutOff => "the database cut off",
            Self::Emptied => "the database empty",
            Self::Deleted => "the database deleted",
            Self::Foreign => "another program's file",
            Self::FileRolledBack => "an older database, alone",
            Self::AllRolledBack => "an older directory, whole",
            Self::LogDeleted => "the log deleted",
            Self::LogEmptied => "the log empty",
            Self::LogBitsFlipped => "bits flipped in the log",
            Self::LogCut => "the log cut off",
            Self::SumsDamaged => "bits flipped in the checksums",
            Self::SumsDeleted => "the checksums deleted",
            Self::KeyDamaged => "the key file damaged",
            Self::KeyDeleted => "the key file deleted",
            Self::KeyOfAnother => "another node's key file",
        }
    }

    /// Whether it happens to a node that was killed, with a log, or may.
    fn is_about_the_log(self) -> bool {
        matches!(
            self,
            Self::LogDeleted | Self::LogEmptied | Self::LogBitsFlipped | Self::LogCut
        )
    }

    /// Whether no node could tell this from its own disk: an earlier state, whole in itself.
    fn may_be_older(self) -> bool {
        matches!(self, Self::AllRolledBack | Self::LogCut)
    }
}

/// What came of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Counts {
    runs: u64,
    /// Refused in words.
    refused: u64,
    /// Everything as before.
    harmless: u64,
    /// An earlier state, whole in itself.
    older: u64,
}

/// Data directories of the same node.
struct Bases {
    spec: Spec,
    /// Earlier than the others.
    older: PathBuf,
    /// Stopped in order.
    clean: PathBuf,
    /// Killed.
    killed: PathBuf,
    /// Another node's key file.
    other_key: PathBuf,
}

/// Runs all of it; whether every damage was noticed or harmless.
pub(crate) async fn run(options: CorruptOptions) -> Result<bool> {
    ensure!(options.runs > 0, "--runs must be at least 1");
    trial::run("corrupt", options.trial.json.as_deref(), async |run| {
        corrupt(&options, run).await
    })
    .await
}

async fn corrupt(options: &CorruptOptions, run: &RunDirectory) -> Result<Finding> {
    let bases = prepare(options.trial.seed, run.path()).await?;
    let image = run.path().join("image");
    let mut before = BTreeMap::new();
    for base in [&bases.older, &bases.clean, &bases.killed] {
        copy_directory(base, &image)?;
        let shown = show(&bases.spec, &image, run.path()).await?;
        before.insert(base.clone(), shown.map_err(anyhow::Error::msg)?);
    }
    ensure!(
        before[&bases.older] != before[&bases.clean],
        "the older state is not older"
    );
    let mut rng = StdRng::seed_from_u64(options.trial.seed ^ 0x434f_5252);
    let mut counts: BTreeMap<Damage, Counts> = BTreeMap::new();
    let mut broken = Vec::new();
    for number in 0..options.runs {
        let damage = ALL[number % ALL.len()];
        let killed = damage.is_about_the_log() || rng.random_range(0..3) == 0;
        let base = if killed { &bases.killed } else { &bases.clean };
        copy_directory(base, &image)?;
        let last_step = inflict(damage, &bases, &image, &mut rng)?;
        let shown = show(&bases.spec, &image, run.path()).await?;
        let count = counts.entry(damage).or_default();
        count.runs += 1;
        let what = format!("run {number}, {}", damage.words());
        match shown {
            Err(said) if said.contains("panicked") => {
                broken.push(format!("{what}: a panic: {said}"))
            }
            Err(said) if said.contains("pumasi: ") => count.refused += 1,
            Err(said) => broken.push(format!("{what}: refused without a word: {said}")),
            Ok(shown) if shown == before[base] => count.harmless += 1,
            Ok(shown) if (damage.may_be_older() || last_step) && is_part(&shown, &before[base]) => {
                count.older += 1;
            }
            Ok(_) => broken.push(format!(
                "{what}: another state is shown as if nothing had happened"
            )),
        }
        if (number + 1) % 100 == 0 {
            say(&format!(
                "  {} of {} damaged directories",
                number + 1,
                options.runs
            ));
        }
    }
    let mut table = Table::new(&["", "runs", "refused", "harmless", "older"]);
    for (damage, count) in &counts {
        table.row([
            damage.words().to_owned(),
            count.runs.to_string(),
            count.refused.to_string(),
            count.harmless.to_string(),
            count.older.to_string(),
        ]);
    }
    let kinds: BTreeMap<_, _> = counts.iter().map(|(d, c)| (d.words(), c)).collect();
    let json = json!({
        "ok": broken.is_empty(), "seed": options.trial.seed, "runs": options.runs,
        "kinds": kinds, "broken": broken,
    });
    Ok(Finding {
        table,
        json,
        broken,
    })
}

/// A network with some traffic, and copies of one node's data from three moments.
async fn prepare(seed: u64, run: &Path) -> Result<Bases> {
    say(&format!("corrupt: a network of {NODES} nodes, seed {seed}"));
    let layout = Layout::even(NODES, NODES, ACCOUNTS, &format!("corrupt-{seed}"));
    let weather = Weather {
        accounts: ACCOUNTS,
        seed,
        rate: RATE,
        seconds: 600,
    };
    let mut storm = Storm::begin(&layout, weather, run, None).await?;
    let spec = storm.network.nodes[VICTIM].spec.clone();
    let copies = ["older", "clean", "killed"].map(|name| run.join(name));
    let mut wanted = 0;
    for copy in &copies {
        wanted += OPERATIONS;
        let begun = std::time::Instant::now();
        while storm.answered() < wanted {
            ensure!(begun.elapsed() < PATIENCE, "the traffic takes too long");
            tokio::time::sleep(crate::network::LOOK).await;
        }
        if copy.ends_with("killed") {
            storm.network.kill(VICTIM);
        } else {
            ensure!(
                storm.network.stop_one(VICTIM).await,
                "the node did not stop"
            );
        }
        copy_directory(&spec.data, copy)?;
        storm.network.start_again(VICTIM, &[]).await?;
        storm.network.ready(VICTIM).await?;
    }
    let other_key = run.join("other.key");
    std::fs::copy(
        storm.network.nodes[0].spec.data.join("identity.key"),
        &other_key,
    )?;
    storm.stage.end();
    let (reckoning, network, ..) = storm.end().await?;
    network.stop().await;
    ensure!(
        reckoning.broken.is_empty(),
        "the network was not sound before any damage: {}",
        reckoning.broken.join("; ")
    );
    let [older, clean, killed] = copies;
    Ok(Bases {
        spec,
        older,
        clean,
        killed,
        other_key,
    })
}

/// Damages a directory; whether only the log's last step was touched, which looks like a step that a power
/// cut stopped.
fn inflict(damage: Damage, bases: &Bases, image: &Path, rng: &mut StdRng) -> Result<bool> {
    let (database, log) = (image.join("node.db"), image.join("node.db-wal"));
    let (sums, key) = (image.join("node.db-sums"), image.join("identity.key"));
    let mut last_step = false;
    match damage {
        Damage::BitsFlipped => drop(flip(&database, rng)?),
        Damage::SectorZeroed | Damage::SectorOfNoise => change(&database, |bytes| {
            let at = rng.random_range(0..bytes.len() / 512) * 512;
            for byte in &mut bytes[at..at + 512] {
                *byte = if damage == Damage::SectorZeroed {
                    0
                } else {
                    rng.random_range(0..=255)
                };
            }
        })?,
        Damage::PagesSwapped => change(&database, |bytes| {
            let pages = bytes.len() / PAGE;
            let (one, other) = (rng.random_range(0..pages), rng.random_range(0..pages));
            for at in 0..PAGE {
                bytes.swap(one * PAGE + at, other * PAGE + at);
            }
        })?,
        Damage::PageElsewhere => change(&database, |bytes| {
            let pages = bytes.len() / PAGE;
            let (one, other) = (rng.random_range(0..pages), rng.random_range(0..pages));
            bytes.copy_within(one * PAGE..(one + 1) * PAGE, other * PAGE);
        })?,
        Damage::CutOff => change(&database, |bytes| {
            bytes.truncate(rng.random_range(1..bytes.len()));
        })?,
        Damage::Emptied => std::fs::write(&database, b"")?,
        Damage::Deleted => std::fs::remove_file(&database)?,
        Damage::Foreign => std::fs::write(&database, vec![rng.random_range(0..=255_u8); 50_000])?,
        Damage::FileRolledBack => drop(std::fs::copy(bases.older.join("node.db"), &database)?),
        Damage::AllRolledBack => copy_directory(&bases.older, image)?,
        Damage::LogDeleted => std::fs::remove_file(&log)?,
        Damage::LogEmptied => std::fs::write(&log, b"")?,
        Damage::LogBitsFlipped => {
            let whole = std::fs::read(&log)?;
            let first = flip(&log, rng)?;
            last_step = first >= last_step_begins(&whole);
        }
        Damage::LogCut => change(&log, |bytes| {
            bytes.truncate(rng.random_range(1..bytes.len()));
        })?,
        Damage::SumsDamaged => drop(flip(&sums, rng)?),
        Damage::SumsDeleted => std::fs::remove_file(&sums)?,
        Damage::KeyDamaged => drop(flip(&key, rng)?),
        Damage::KeyDeleted => std::fs::remove_file(&key)?,
        Damage::KeyOfAnother => drop(std::fs::copy(&bases.other_key, &key)?),
    }
    Ok(last_step)
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    change(&mut bytes);
    Ok(std::fs::write(path, bytes)?)
}

/// Flips one to three bits; where the first of them stands.
fn flip(path: &Path, rng: &mut StdRng) -> Result<usize> {
    let mut first = usize::MAX;
    change(path, |bytes| {
        for _ in 0..rng.random_range(1..=3) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            first = first.min(at);
        }
    })?;
    Ok(first)
}

/// Where the frames of a log's last commit begin.
fn last_step_begins(log: &[u8]) -> usize {
    let Some(salts) = log.get(16..24) else {
        return 0;
    };
    let (mut step, mut begins) = (LOG_HEADER, LOG_HEADER);
    let mut at = LOG_HEADER;
    while let Some(head) = log.get(at..at + FRAME_HEADER) {
        if &head[8..16] != salts {
            break;
        }
        at += FRAME;
        if head[4..8] != [0; 4] {
            begins = step;
            step = at;
        }
    }
    begins
}

/// What a daemon on these data shows; or what it said when it refused them.
async fn show(spec: &Spec, data: &Path, run: &Path) -> Result<Result<Value, String>> {
    let (socket, log) = (run.join("image.sock"), run.join("image.log"));
    let (mut process, client) = match start(spec, data, &socket, &log).await {
        Ok(started) => started,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let shown = lists(&client).await;
    process.kill();
    process.reap();
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    if said.contains("panicked") {
        return Ok(Err(said));
    }
    // A list that is refused is an answer, too; one that is wrong is not.
    Ok(shown.map_err(|error| format!("pumasi: {error:#}")))
}

/// Everything that people see, without what changes by itself.
async fn lists(client: &Client) -> Result<Value> {
    let mut all = serde_json::Map::new();
    let accounts: Value = client.get("/accounts").await?;
    for account in accounts["items"].as_array().into_iter().flatten() {
        let id = account["id"].as_str().unwrap_or_default();
        let me = client.clone().with_account(Some(id));
        let mut shown = serde_json::Map::new();
        shown.insert("name".to_owned(), account["name"].clone());
        let contacts: Value = me.get("/contacts").await?;
        for contact in contacts["items"].as_array().into_iter().flatten() {
            let other = contact["id"].as_str().unwrap_or_default();
            shown.insert(format!("contact {other}"), contact["name"].clone());
            let messages: Value = me
                .get(&format!("/chats/{other}/messages?limit=500"))
                .await?;
            insert(
                &mut shown,
                "message",
                &messages,
                &["direction", "text", "state", "safe"],
            );
        }
        let payments: Value = me.get("/payments?limit=500").await?;
        insert(
            &mut shown,
            "payment",
            &payments,
            &["direction", "amount", "note", "state"],
        );
        let lines: Value = me.get("/credit-lines").await?;
        for line in lines["items"].as_array().into_iter().flatten() {
            shown.insert(
                format!("line {} {}", line["contact"], line["unit"]),
                line.clone(),
            );
        }
        all.insert(id.to_owned(), Value::Object(shown));
    }
    let keeping: Value = client.get("/keeping").await?;
    all.insert("keeping".to_owned(), keeping["items"].clone());
    Ok(Value::Object(all))
}

fn insert(shown: &mut serde_json::Map<String, Value>, kind: &str, list: &Value, members: &[&str]) {
    for item in list["items"].as_array().into_iter().flatten() {
        let kept: serde_json::Map<_, _> = members
            .iter()
            .map(|&member| (member.to_owned(), item[member].clone()))
            .collect();
        let id = item["id"].as_str().unwrap_or_default();
        shown.insert(format!("{kind} {id}"), Value::Object(kept));
    }
}

/// Whether a state could have come before another one: nothing in it that is not in the later one, and
/// texts and amounts as there. Figures and states may be earlier.
fn is_part(earlier: &Value, later: &Value) -> bool {
    let (Some(earlier), Some(later)) = (earlier.as_object(), later.as_object()) else {
        return false;
    };
    earlier.iter().all(|(account, shown)| {
        let Some(shown) = shown.as_object() else {
            return true;
        };
        shown.iter().all(|(name, item)| {
            let then = &later[account][name];
            !then.is_null()
                && ["text", "amount", "note", "direction"]
                    .iter()
                    .all(|member| then.get(member) == item.get(member))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_state_has_nothing_that_the_later_one_has_not_or_has_otherwise() {
        let later =
            json!({"a": {"message 1": {"text": "x", "state": "safe"}, "message 2": {"text": "y"}}});
        let earlier = json!({"a": {"message 1": {"text": "x", "state": "saved"}}});
        assert!(is_part(&earlier, &later) && !is_part(&later, &earlier));
        let other = json!({"a": {"message 1": {"text": "z", "state": "saved"}}});
        assert!(!is_part(&other, &later));
    }

    #[test]
    fn the_last_step_of_a_log_begins_behind_the_commit_before_it() {
        let mut log = vec![0; LOG_HEADER + 4 * FRAME];
        for (frame, commit) in [0, 1, 0, 1].into_iter().enumerate() {
            log[LOG_HEADER + frame * FRAME + 7] = commit;
        }
        assert_eq!(last_step_begins(&log), LOG_HEADER + 2 * FRAME);
    }
}
