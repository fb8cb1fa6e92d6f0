//! A checksum for every page of the database, in a file beside it: SQLite has none, and would pass a
//! flipped bit on as somebody's balance. No SQL of the tables is here.
//!
//! In WAL mode the database file changes only in a checkpoint, and checkpoints are made only here, on the
//! thread that writes. Order: (1) the checkpoint copies pages and makes them durable; (2) their checksums
//! are written and made durable; (3) only then may the log be overwritten or cut. Whatever a crash leaves
//! behind between these, each page matches its checksum or is still in the log, which has its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pumasi_protocol::crypto;
use rusqlite::Connection;

use super::wal::{self, Found, PAGE};
use crate::error::{Error, ErrorKind, Result};

/// Name of the file in the data directory.
pub(crate) const SUMS: &str = "node.db-sums";
/// Its first bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"PUMASUM\x01";
/// Bytes before the first entry. 16, so that neither header nor entry ever crosses a disk sector.
const HEADER: usize = 16;
/// Bytes of an entry: 12 of the page's hash, 4 that check the entry itself.
const ENTRY: usize = 16;
/// Pages of damage named in an error.
const NAMED: usize = 5;

type Entry = [u8; ENTRY];

/// What was found before SQLite opened the database.
#[derive(Debug)]
pub(crate) struct Checked {
    directory: PathBuf,
    /// Every page has a checksum and matches it, or is in the log.
    pub(crate) complete: bool,
}

/// The checksums of an open database.
#[derive(Debug)]
pub(crate) struct Pages {
    directory: PathBuf,
    sums: File,
    database: File,
    /// Pages that have a checksum.
    count: u32,
    /// The last checkpoint could not copy everything, because somebody still reads an older state.
    partial: bool,
    /// The page that is looked at next.
    next: u32,
}

fn entry(number: u32, page: &[u8]) -> Entry {
    let number = number.to_be_bytes();
    let hash = crypto::hash("pumasi page v1", &[&number, page]).0;
    let check = crypto::hash("pumasi page sum v1", &[&number, &hash[..12]]).0;
    let mut entry = [0; ENTRY];
    entry[..12].copy_from_slice(&hash[..12]);
    entry[12..].copy_from_slice(&check[..4]);
    entry
}

/// Whether an entry is one that was once written for this page.
fn is_sound(number: u32, entry: &Entry) -> bool {
    let check = crypto::hash("pumasi page sum v1", &[&number.to_be_bytes(), &entry[..12]]).0;
    entry[12..] == check[..4]
}

fn header(open: bool) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = u8::from(open);
    let check = crypto::hash("pumasi page sums v1", &[&header[..12]]).0;
    header[12..].copy_from_slice(&check[..4]);
    header
}

fn place(page: u32) -> u64 {
    HEADER as u64 + u64::from(page.saturating_sub(1)) * ENTRY as u64
}

fn damaged(directory: &Path, what: &str) -> Error {
    Error::damage(format!(
        "{} {what}. Bring the accounts back from their 24 words in an empty data directory",
        super::database(directory).display()
    ))
}

fn failed(directory: &Path) -> impl Fn(io::Error) -> Error {
    let path = directory.join(SUMS);
    move |error| {
        Error::new(
            ErrorKind::Storage,
            format!("the checksums in {} failed: {error}", path.display()),
        )
    }
}

/// Compares every page with its checksum, before SQLite touches anything. Reads the whole database.
///
/// # Errors
/// `Storage` when a page was changed or is missing, or the log is missing or was damaged.
pub(crate) fn check(directory: &Path) -> Result<Checked> {
    let failed = failed(directory);
    let database = super::database(directory);
    let found = match wal::read(&super::log(directory)).map_err(&failed)? {
        Found::Nothing => None,
        Found::Log(log) => Some(log),
        Found::Damaged(why) => {
            return Err(damaged(
                directory,
                &format!("has a damaged write-ahead log ({why})"),
            ));
        }
    };
    let incomplete = Checked {
        directory: directory.to_owned(),
        complete: false,
    };
    let (Ok(file), Ok(sums)) = (File::open(&database), std::fs::read(directory.join(SUMS))) else {
        return Ok(incomplete);
    };
    let (head, entries) = sums.split_at(HEADER.min(sums.len()));
    let open = head == header(true);
    if !open && head != header(false) {
        tracing::warn!(file = SUMS, "the page checksums cannot be read: made anew");
        return Ok(incomplete);
    }
    if open && found.is_none() {
        return Err(damaged(
            directory,
            "was in use when its node last ended, but its write-ahead log is missing or empty: what was \
             written last is gone",
        ));
    }
    let log = found.unwrap_or_default();
    let length = file.metadata().map_err(&failed)?.len();
    let (mut wrong, mut cut, mut unknown) = (Vec::new(), 0_u32, 0_u32);
    let mut page = vec![0; PAGE];
    for (number, sum) in (1_u32..).zip(entries.as_chunks::<ENTRY>().0) {
        if log.content.contains_key(&number) {
            continue;
        }
        let at = u64::from(number - 1) * PAGE as u64;
        if at + PAGE as u64 > length {
            cut += 1;
            continue;
        }
        file.read_exact_at(&mut page, at).map_err(&failed)?;
        if entry(number, &page) != *sum {
            if is_sound(number, sum) {
                wrong.push(number.to_string());
            } else {
                unknown += 1;
            }
        }
    }
    if cut > 0 {
        return Err(damaged(
            directory,
            &format!("is cut off: {cut} pages of 4 KiB are missing at its end"),
        ));
    }
    if !wrong.is_empty() {
        let more = if wrong.len() > NAMED { ", ..." } else { "" };
        return Err(damaged(
            directory,
            &format!(
                "is damaged, or was changed by another program: {} not match {} (page {}{more})",
                if wrong.len() == 1 {
                    "1 of its pages does".to_owned()
                } else {
                    format!("{} of its pages do", wrong.len())
                },
                if wrong.len() == 1 {
                    "its checksum"
                } else {
                    "their checksums"
                },
                wrong[..wrong.len().min(NAMED)].join(", ")
            ),
        ));
    }
    if unknown > 0 {
        tracing::warn!(
            file = SUMS,
            unknown,
            "page checksums were damaged: made anew"
        );
    }
    Ok(Checked {
        complete: unknown == 0,
        ..incomplete
    })
}

impl Checked {
    /// Takes over the checkpoints of a database that was just opened: empties the log, makes missing
    /// checksums, and notes that the database is in use.
    ///
    /// # Errors
    /// `Storage` when the disk fails.
    pub(crate) fn begin(self, db: &Connection) -> Result<Pages> {
        let failed = failed(&self.directory);
        let open = |name: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(name)
                .map_err(&failed)
        };
        let mut pages = Pages {
            sums: open(&self.directory.join(SUMS))?,
            database: File::open(super::database(&self.directory)).map_err(&failed)?,
            count: 0,
            partial: false,
            next: 1,
            directory: self.directory.clone(),
        };
        if self.complete {
            let length = pages.sums.metadata().map_err(&failed)?.len();
            pages.count = u32::try_from(length.saturating_sub(HEADER as u64) / ENTRY as u64)
                .unwrap_or(u32::MAX);
            pages.checkpoint(db, true)?;
        } else {
            pages.build(db)?;
        }
        // From here on the log is never empty until the clean stop, so that a missing one is noticed.
        db.execute(
            "INSERT INTO meta (key, value) VALUES ('opened', randomblob(8))
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [],
        )?;
        pages.sums.write_all_at(&header(true), 0).map_err(&failed)?;
        pages.sums.sync_all().map_err(&failed)?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(&failed)?;
        Ok(pages)
    }
}

impl Pages {
    /// Copies the log into the database; with `stop`, empties it and notes the clean end.
    ///
    /// # Errors
    /// `Storage` when the disk fails: the node must stop.
    pub(crate) fn checkpoint(&mut self, db: &Connection, stop: bool) -> Result<()> {
        let (log, copied): (i64, i64) =
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(1)?, row.get(2)?))
            })?;
        self.partial = log != copied;
        if self.partial {
            // The log keeps everything until a later one copies the rest.
            return Ok(());
        }
        if log > 0 {
            self.take_over(log)?;
        }
        if stop {
            let failed = failed(&self.directory);
            self.sums.write_all_at(&header(false), 0).map_err(&failed)?;
            self.sums.sync_all().map_err(&failed)?;
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    /// Checksums of what a complete checkpoint has copied.
    fn take_over(&mut self, frames: i64) -> Result<()> {
        let failed = failed(&self.directory);
        let path = super::log(&self.directory);
        let Found::Log(log) = wal::read(&path).map_err(&failed)? else {
            return Err(damaged(
                &self.directory,
                "has an unreadable write-ahead log",
            ));
        };
        if i64::from(log.frames) != frames {
            return Err(damaged(
                &self.directory,
                &format!(
                    "has {} sound frames in its write-ahead log, and SQLite counts {frames}",
                    log.frames
                ),
            ));
        }
        let file = File::open(&path).map_err(&failed)?;
        self.count = log.pages;
        self.sums.set_len(place(log.pages + 1)).map_err(&failed)?;
        let mut page = vec![0; PAGE];
        // Entries that stand side by side are written together.
        let mut run: Vec<u8> = Vec::new();
        let mut next = 0;
        for (&number, &at) in &log.content {
            if number > log.pages {
                continue;
            }
            if number != next {
                self.put(&run, next)?;
                run.clear();
            }
            file.read_exact_at(&mut page, at).map_err(&failed)?;
            run.extend_from_slice(&entry(number, &page));
            next = number + 1;
        }
        self.put(&run, next)?;
        self.sums.sync_all().map_err(&failed)
    }

    /// Writes entries of the pages right before `next`.
    fn put(&self, entries: &[u8], next: u32) -> Result<()> {
        let from = place(next).saturating_sub(entries.len() as u64);
        self.sums
            .write_all_at(entries, from)
            .map_err(failed(&self.directory))
    }

    /// Whether so much stands in the log that it is time to copy it.
    ///
    /// # Errors
    /// `Storage` when SQLite cannot tell.
    pub(crate) fn is_due(&self, db: &Connection) -> Result<bool> {
        let (log, copied): (i64, i64) = db.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
            Ok((row.get(1)?, row.get(2)?))
        })?;
        Ok(log - copied >= super::CHECKPOINT_PAGES)
    }

    /// All checksums anew, from a database that SQLite has found sound.
    fn build(&mut self, db: &Connection) -> Result<()> {
        let failed = failed(&self.directory);
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        let pages = self.database.metadata().map_err(&failed)?.len() / PAGE as u64;
        self.count = u32::try_from(pages).unwrap_or(u32::MAX);
        let mut page = vec![0; PAGE];
        let mut run = Vec::new();
        for number in 1..=self.count {
            let at = u64::from(number - 1) * PAGE as u64;
            self.database
                .read_exact_at(&mut page, at)
                .map_err(&failed)?;
            run.extend_from_slice(&entry(number, &page));
            if run.len() >= 16 * PAGE {
                self.put(&run, number + 1)?;
                run.clear();
            }
        }
        self.put(&run, self.count + 1)?;
        self.sums.set_len(place(self.count + 1)).map_err(&failed)?;
        self.sums.write_all_at(&header(false), 0).map_err(&failed)?;
        self.sums.sync_all().map_err(&failed)
    }

    /// Looks at the next `pages` pages on the disk, round and round.
    ///
    /// # Errors
    /// `Storage` when one does not match its checksum: the node must stop before it acts on it.
    pub(crate) fn scrub(&mut self, pages: u32) -> Result<()> {
        if self.partial || self.count == 0 {
            return Ok(());
        }
        let failed = failed(&self.directory);
        let (mut page, mut sum) = (vec![0; PAGE], [0; ENTRY]);
        for _ in 0..pages.min(self.count) {
            let number = if self.next > self.count { 1 } else { self.next };
            self.next = number + 1;
            let at = u64::from(number - 1) * PAGE as u64;
            let there = self.database.read_exact_at(&mut page, at);
            self.sums
                .read_exact_at(&mut sum, place(number))
                .map_err(&failed)?;
            // A file that was cut off has no such page any more.
            if there.is_err() || (entry(number, &page) != sum && is_sound(number, &sum)) {
                return Err(damaged(
                    &self.directory,
                    &format!(
                        "was damaged while the node ran: page {number} does not match its checksum"
                    ),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory in use, with some rows, of which the last ones are in the log only.
    fn in_use() -> (tempfile::TempDir, Connection, Pages) {
        let directory = tempfile::tempdir().unwrap();
        let checked = check(directory.path()).unwrap();
        let db = crate::store::open(directory.path()).unwrap();
        let mut pages = checked.begin(&db).unwrap();
        fill(&db, 0..50);
        pages.checkpoint(&db, false).unwrap();
        fill(&db, 50..60);
        (directory, db, pages)
    }

    fn fill(db: &Connection, rows: std::ops::Range<u32>) {
        for row in rows {
            db.execute(
                "INSERT INTO meta (key, value) VALUES (?1, randomblob(900))",
                [format!("row {row}")],
            )
            .unwrap();
        }
    }

    fn rows(directory: &Path) -> u32 {
        let checked = check(directory).unwrap();
        let db = crate::store::open(directory).unwrap();
        checked.begin(&db).unwrap();
        db.query_row(
            "SELECT count(*) FROM meta WHERE key LIKE 'row %'",
            [],
            |row| row.get(0),
        )
        .unwrap()
    }

    fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    fn refusal(directory: &Path) -> String {
        let error = check(directory).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.message().contains("24 words"), "{error}");
        error.message().to_owned()
    }

    #[test]
    fn after_a_crash_everything_committed_is_there() {
        let (directory, db, pages) = in_use();
        drop((db, pages));
        assert_eq!(rows(directory.path()), 60);
        assert_eq!(rows(directory.path()), 60);
    }

    #[test]
    fn a_crash_between_checkpoint_and_checksums_is_harmless() {
        let (directory, db, pages) = in_use();
        db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .unwrap();
        drop((db, pages));
        assert_eq!(rows(directory.path()), 60);
    }

    #[test]
    fn a_flipped_bit_in_any_page_is_found_at_the_start() {
        let (directory, db, mut pages) = in_use();
        pages.checkpoint(&db, true).unwrap();
        drop((db, pages));
        let path = crate::store::database(directory.path());
        let count = std::fs::metadata(&path).unwrap().len() / PAGE as u64;
        assert!(count > 20);
        for page in 0..usize::try_from(count).unwrap() {
            let at = page * PAGE + (page * 977) % PAGE;
            change(&path, |bytes| bytes[at] ^= 4);
            let words = refusal(directory.path());
            assert!(words.contains(&format!("page {}", page + 1)), "{words}");
            change(&path, |bytes| bytes[at] ^= 4);
        }
        assert_eq!(rows(directory.path()), 60);
    }

    #[test]
    fn swapped_pages_and_a_file_cut_off_are_found() {
        let (directory, db, mut pages) = in_use();
        pages.checkpoint(&db, true).unwrap();
        drop((db, pages));
        let path = crate::store::database(directory.path());
        let whole = std::fs::read(&path).unwrap();
        change(&path, |bytes| {
            let (first, last) = bytes.split_at_mut(whole.len() - PAGE);
            let at = first.len() - 3 * PAGE;
            first[at..at + PAGE].swap_with_slice(last);
        });
        assert!(refusal(directory.path()).contains("2 of its pages do not match"));
        change(&path, |bytes| {
            bytes.clone_from(&whole);
            bytes.truncate(whole.len() - PAGE - 7);
        });
        assert!(refusal(directory.path()).contains("2 pages of 4 KiB are missing"));
    }

    #[test]
    fn a_log_that_is_missing_after_a_crash_is_noticed() {
        let (directory, db, pages) = in_use();
        drop((db, pages));
        let log = crate::store::log(directory.path());
        std::fs::remove_file(&log).unwrap();
        assert!(refusal(directory.path()).contains("write-ahead log is missing"));
        std::fs::write(&log, b"").unwrap();
        assert!(refusal(directory.path()).contains("missing or empty"));
    }

    #[test]
    fn a_log_changed_before_its_last_commits_is_noticed_and_a_torn_end_is_not_one() {
        let (directory, db, pages) = in_use();
        drop((db, pages));
        let path = crate::store::log(directory.path());
        let whole = std::fs::read(&path).unwrap();
        for at in [3, 17, 32 + 10, 32 + 24 + 100] {
            change(&path, |bytes| bytes[at] ^= 1);
            assert!(
                refusal(directory.path()).contains("damaged write-ahead log"),
                "{at}"
            );
            change(&path, |bytes| bytes.clone_from(&whole));
        }
        // What a power cut leaves of a step that was not committed yet.
        change(&path, |bytes| {
            bytes.extend_from_slice(&whole[32..32 + 3_000])
        });
        assert_eq!(rows(directory.path()), 60);
    }

    #[test]
    fn a_page_damaged_while_the_node_runs_is_found_by_looking_at_a_few_at_a_time() {
        let (directory, db, mut pages) = in_use();
        pages.checkpoint(&db, false).unwrap();
        for _ in 0..100 {
            pages.scrub(7).unwrap();
        }
        let path = crate::store::database(directory.path());
        change(&path, |bytes| bytes[15 * PAGE + 100] ^= 1);
        let error = (0..100).find_map(|_| pages.scrub(7).err()).unwrap();
        assert!(error.message().contains("page 16"), "{error}");
        drop(db);
    }

    #[test]
    fn a_log_begun_anew_whose_first_commit_never_came_is_no_damage() {
        let (directory, db, mut pages) = in_use();
        pages.checkpoint(&db, false).unwrap();
        drop((db, pages));
        // What SQLite has done when a crash comes right after it began the log anew: another header.
        let path = crate::store::log(directory.path());
        change(&path, |bytes| {
            bytes[16..20].copy_from_slice(&7_u32.to_be_bytes());
            let mut checksum = wal::Checksum {
                big_endian: bytes[3] & 1 == 1,
                sums: (0, 0),
            };
            checksum.add(&bytes[..24]);
            bytes[24..28].copy_from_slice(&checksum.sums.0.to_be_bytes());
            bytes[28..32].copy_from_slice(&checksum.sums.1.to_be_bytes());
        });
        assert_eq!(rows(directory.path()), 60);
    }

    #[test]
    fn a_checkpoint_is_due_when_the_log_has_grown_and_not_right_after_one() {
        let (_directory, db, mut pages) = in_use();
        assert!(!pages.is_due(&db).unwrap());
        while !pages.is_due(&db).unwrap() {
            db.execute("UPDATE meta SET value = randomblob(900)", [])
                .unwrap();
        }
        pages.checkpoint(&db, false).unwrap();
        assert!(!pages.is_due(&db).unwrap());
    }

    #[test]
    fn damaged_or_missing_checksums_are_made_anew_and_are_no_damage() {
        let (directory, db, pages) = in_use();
        drop((db, pages));
        assert_eq!(rows(directory.path()), 60);
        let sums = directory.path().join(SUMS);
        for at in [2, 9, 100, 205] {
            change(&sums, |bytes| bytes[at] ^= 1);
            assert_eq!(rows(directory.path()), 60);
        }
        std::fs::remove_file(&sums).unwrap();
        assert_eq!(rows(directory.path()), 60);
        assert!(check(directory.path()).unwrap().complete);
    }
}
