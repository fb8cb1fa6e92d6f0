//! Power cuts: a daemon's writes are recorded once; from the record, disks are put together as a power cut
//! could have left them. Everything up to the last sync of each file is there; of what came after, any
//! part, in sectors, in any order. A daemon is started on each and asked for what was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use pumasi_node::ErrorKind;
use pumasi_node::client::Client;
use pumasi_node::view::{MessageView, PaymentView};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use serde_json::{Value, json};

use crate::faults::{Fault, Faults};
use crate::network::{LOOK, Network, Spec, is_alive};
use crate::process::{DAEMON, Process};
use crate::society::UNIT;
use crate::table::say;
use crate::traffic::Stage;

/// Operations that are recorded.
const OPERATIONS: usize = 60;
/// Sector sizes of disks.
const SECTORS: [usize; 2] = [512, 4_096];
/// A daemon on an image is ready within this time.
const READY: std::time::Duration = std::time::Duration::from_secs(30);

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) images: u64,
    /// Images in which something unsynced was left out.
    pub(crate) torn: u64,
    /// Acknowledged operations that were looked for, over all images.
    pub(crate) looked_for: u64,
    pub(crate) missing: u64,
}

/// A call of the daemon on a file.
#[derive(Debug, Clone)]
enum Call {
    Write { at: u64, data: Vec<u8> },
    Cut { length: u64 },
    Sync,
    Rename { to: String },
    Unlink,
}

/// An operation that was acknowledged.
#[derive(Debug)]
struct Acknowledged {
    account: String,
    /// Below the API: `/messages/...`.
    path: String,
    /// How many calls were recorded when the answer came.
    after: usize,
}

/// A recorded run.
#[derive(Debug)]
pub(crate) struct Recorded {
    spec: Spec,
    /// The data directory before the first call.
    base: PathBuf,
    calls: Vec<(String, Call)>,
    acknowledged: Vec<Acknowledged>,
}

/// Stops the node, starts it with a recorder, does some operations, and kills it.
pub(crate) async fn record(
    network: &mut Network,
    node: usize,
    stage: &Stage,
    faults: &Faults,
    run: &Path,
) -> Result<Recorded> {
    say("  recording the writes of a run for power cuts");
    ensure!(network.stop_one(node).await, "the node did not stop");
    let spec = network.nodes[node].spec.clone();
    let base = run.join("base");
    copy_directory(&spec.data, &base)?;
    let log = run.join("writes.log");
    let variables = faults.environment(&spec.data, Fault::None, 0, Some(&log))?;
    network.start_again(node, &variables).await?;
    network.ready(node).await?;
    let mine: Vec<_> = stage
        .people
        .iter()
        .enumerate()
        .filter(|(account, _)| account % network.nodes.len() == node)
        .map(|(_, person)| person)
        .collect();
    let mut acknowledged = Vec::new();
    for number in 0..OPERATIONS {
        let me = mine[number % mine.len()];
        let chats: Value = me.client.get("/contacts").await?;
        let other = chats["items"][0]["id"]
            .as_str()
            .context("no contact")?
            .to_owned();
        let key = format!("image-{number}");
        let path = if number % 3 == 2 {
            let amount = json!({"amount": "1", "currency": UNIT});
            let body = json!({"to": other, "amount": amount, "note": "image"});
            let made = me
                .client
                .post_with_key::<PaymentView>("/payments", &body, &key)
                .await;
            match made {
                Ok(payment) => format!("/payments/{}", payment.id),
                Err(error) if error.kind() == ErrorKind::CreditLimitExceeded => continue,
                Err(error) => return Err(error.into()),
            }
        } else {
            let path = format!("/chats/{other}/messages");
            let body = json!({"text": format!("image {number}")});
            let made: MessageView = me.client.post_with_key(&path, &body, &key).await?;
            format!("/messages/{}", made.id)
        };
        acknowledged.push(Acknowledged {
            account: me.id.clone(),
            path,
            after: usize::try_from(faults.logged()?)?,
        });
    }
    network.kill(node);
    let calls = read_log(&std::fs::read(&log)?)?;
    ensure!(
        acknowledged
            .last()
            .is_some_and(|last| last.after <= calls.len()),
        "the record of writes is not complete"
    );
    Ok(Recorded {
        spec,
        base,
        calls,
        acknowledged,
    })
}

/// Cuts the power at so many moments.
pub(crate) async fn check(
    recorded: &Recorded,
    images: usize,
    seed: u64,
    run: &Path,
    broken: &mut Vec<String>,
) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x50_4f57_4552);
    let mut moments: Vec<usize> = (0..images)
        .map(|_| rng.random_range(0..=recorded.calls.len()))
        .collect();
    moments.sort_unstable();
    let mut outcome = Outcome::default();
    let mut disk = Disk::read(&recorded.base)?;
    let mut done = 0;
    for (number, moment) in moments.into_iter().enumerate() {
        for (name, call) in &recorded.calls[done..moment] {
            disk.call(name, call);
        }
        done = moment;
        let data = run.join("image");
        let whole = disk.cut(&mut rng, &data)?;
        outcome.images += 1;
        outcome.torn += u64::from(!whole);
        match ask(recorded, &data, moment, run).await {
            Ok(looked_for) => outcome.looked_for += looked_for,
            Err(error) => {
                outcome.missing += 1;
                broken.push(format!(
                    "power cut {number}, after call {moment}: {error:#}"
                ));
            }
        }
        std::fs::remove_dir_all(&data)?;
        if (number + 1) % 100 == 0 {
            say(&format!("  {} of {images} power cuts", number + 1));
        }
    }
    Ok(outcome)
}

/// Starts a daemon on an image and asks it; how many operations were looked for.
async fn ask(recorded: &Recorded, data: &Path, moment: usize, run: &Path) -> Result<u64> {
    let socket = run.join("image.sock");
    let log = run.join("image.log");
    let (mut process, client) = start(&recorded.spec, data, &socket, &log).await?;
    let mut looked_for = 0;
    for one in recorded
        .acknowledged
        .iter()
        .filter(|one| one.after <= moment)
    {
        let client = client.clone().with_account(Some(&one.account));
        client
            .get::<Value>(&one.path)
            .await
            .with_context(|| format!("{} was acknowledged and is gone", one.path))?;
        looked_for += 1;
    }
    let copy = run.join("image.copy");
    client
        .download("/backup", std::fs::File::create(&copy)?)
        .await?;
    process.kill();
    process.reap();
    let verified = Command::new(std::env::current_exe()?)
        .args([DAEMON, "backup", "verify"])
        .arg(&copy)
        .output()?;
    std::fs::remove_file(&copy)?;
    ensure!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    Ok(looked_for)
}

/// Starts a daemon on a copy of a node's data and waits until it answers. It knows nobody's address, so
/// it is never ready: its accounts cannot be compared with their keepers. What it holds can be read.
pub(crate) async fn start(
    spec: &Spec,
    data: &Path,
    socket: &Path,
    log: &Path,
) -> Result<(Process, Client)> {
    let arguments = spec.moved(data, socket);
    drop(std::fs::remove_file(log));
    let mut process = Process::start(&arguments, log, false)?;
    let client = Client::socket(socket);
    let begun = std::time::Instant::now();
    loop {
        if let Some(status) = process.ended() {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("the daemon refused it ({status}): {}", said.trim());
        }
        if is_alive(&client).await {
            return Ok((process, client));
        }
        ensure!(begun.elapsed() < READY, "the daemon did not answer in time");
        tokio::time::sleep(LOOK / 4).await;
    }
}

/// Copies the files of a data directory, without what belongs to a running process.
pub(crate) fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    drop(std::fs::remove_dir_all(to));
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && !name.ends_with("-shm") && name != "lock" {
            std::fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// The files of a data directory as a disk has them: what is durable, and what was written since.
#[derive(Debug)]
struct Disk {
    files: BTreeMap<String, (Vec<u8>, Vec<Call>)>,
}

impl Disk {
    fn read(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, (std::fs::read(entry.path())?, Vec::new()));
        }
        Ok(Self { files })
    }

    fn call(&mut self, name: &str, call: &Call) {
        match call {
            Call::Sync => {
                let (content, pending) = self.files.entry(name.to_owned()).or_default();
                for call in pending.drain(..) {
                    apply(content, &call);
                }
            }
            Call::Rename { to } => {
                if let Some(file) = self.files.remove(name) {
                    self.files.insert(to.clone(), file);
                }
            }
            Call::Unlink => drop(self.files.remove(name)),
            Call::Write { .. } | Call::Cut { .. } => {
                let (_, pending) = self.files.entry(name.to_owned()).or_default();
                pending.push(call.clone());
            }
        }
    }

    /// Writes what a power cut leaves; whether nothing was left out.
    fn cut(&self, rng: &mut StdRng, to: &Path) -> Result<bool> {
        drop(std::fs::remove_dir_all(to));
        std::fs::create_dir(to)?;
        let sector = SECTORS[rng.random_range(0..SECTORS.len())];
        // From "nothing reached the disk" to "everything did".
        let share = [0, 20, 50, 80, 95, 100][rng.random_range(0..6)];
        let mut whole = true;
        for (name, (content, pending)) in &self.files {
            let mut content = content.clone();
            let mut parts: Vec<Call> = pending
                .iter()
                .flat_map(|call| sectors(call, sector))
                .collect();
            let all = parts.len();
            parts.retain(|_| rng.random_range(0..100) < share);
            whole &= parts.len() == all;
            if rng.random_range(0..2) == 0 {
                parts.shuffle(rng);
            }
            for part in &parts {
                apply(&mut content, part);
            }
            std::fs::write(to.join(name), content)?;
        }
        Ok(whole)
    }
}

/// A write in pieces that end where sectors end.
fn sectors(call: &Call, sector: usize) -> Vec<Call> {
    let Call::Write { at, data } = call else {
        return vec![call.clone()];
    };
    let mut parts = Vec::new();
    let (mut at, mut rest) = (*at, data.as_slice());
    while !rest.is_empty() {
        let room = sector - usize::try_from(at).unwrap_or(0) % sector;
        let (part, more) = rest.split_at(room.min(rest.len()));
        parts.push(Call::Write {
            at,
            data: part.to_vec(),
        });
        at += part.len() as u64;
        rest = more;
    }
    parts
}

fn apply(content: &mut Vec<u8>, call: &Call) {
    match call {
        Call::Write { at, data } => {
            let at = usize::try_from(*at).unwrap_or(0);
            if content.len() < at + data.len() {
                content.resize(at + data.len(), 0);
            }
            content[at..at + data.len()].copy_from_slice(data);
        }
        Call::Cut { length } => content.resize(usize::try_from(*length).unwrap_or(0), 0),
        Call::Sync | Call::Rename { .. } | Call::Unlink => {}
    }
}

/// The recorder's file: see `faults.c`.
fn read_log(mut bytes: &[u8]) -> Result<Vec<(String, Call)>> {
    let mut calls = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<17>() {
        let number = |from: usize| {
            u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
        };
        let (name, data) = (number(1) as usize, number(13) as usize);
        let at = u64::from(number(5)) | u64::from(number(9)) << 32;
        if rest.len() < name + data {
            // The process was killed while it wrote this record.
            break;
        }
        let (name, rest) = rest.split_at(name);
        let (data, rest) = rest.split_at(data);
        let call = match head[0] {
            b'w' => Call::Write {
                at,
                data: data.to_vec(),
            },
            b't' => Call::Cut { length: at },
            b's' => Call::Sync,
            b'r' => Call::Rename {
                to: String::from_utf8(data.to_vec())?,
            },
            b'u' => Call::Unlink,
            other => bail!("the record of writes has a call of kind {other}"),
        };
        calls.push((String::from_utf8(name.to_vec())?, call));
        bytes = rest;
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let mut disk = Disk {
            files: BTreeMap::new(),
        };
        let write = |at: u64, byte: u8| Call::Write {
            at,
            data: vec![byte; 8_192],
        };
        disk.call("a", &write(0, 1));
        disk.call("a", &Call::Sync);
        disk.call("a", &write(100, 2));
        disk
    }

    #[test]
    fn what_was_synced_is_in_every_power_cut_and_the_rest_in_any_part() {
        let run = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let disk = disk();
        let (mut torn, mut complete) = (0, 0);
        for _ in 0..100 {
            let whole = disk.cut(&mut rng, &run.path().join("image")).unwrap();
            let image = std::fs::read(run.path().join("image/a")).unwrap();
            assert!(image.len() >= 8_192 && image[..100].iter().all(|&byte| byte == 1));
            let new = image.iter().filter(|&&byte| byte == 2).count();
            assert_eq!(whole, new == 8_192);
            complete += u32::from(whole);
            torn += u32::from(!whole && new > 0);
        }
        assert!(torn > 10 && complete > 5, "{torn} {complete}");
    }

    #[test]
    fn a_record_cut_short_ends_before_its_last_call() {
        let mut bytes = vec![b's'];
        bytes.extend([1, 0, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend([0; 4]);
        bytes.push(b'a');
        let whole = bytes.clone();
        bytes.extend_from_slice(&whole[..9]);
        let calls = read_log(&bytes).unwrap();
        assert!(matches!(&calls[..], [(name, Call::Sync)] if name == "a"));
    }
}
