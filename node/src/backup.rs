//! Copies of the database: made while it is in use, and verified without a daemon. Not a way back: an
//! older state of money and ratchets must not go on, so a lost device comes back from its 24 words.
//!
//! A copy is one SQLite file (`VACUUM INTO`) with a table `backup` more: who made it and when, and per
//! table the number of rows and a SHA-256 over them, since SQLite would not notice a changed text.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pumasi_protocol::envelope::Envelope;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::view::{BackupAccountView, BackupView};
use crate::{clock, read, store};

/// Version of the table `backup`.
const VERSION: i64 = 1;

fn failed(what: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let text = format!("cannot {what} {}", path.display());
    move |error| Error::new(ErrorKind::Storage, format!("{text}: {error}"))
}

fn unsound(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "{} is no sound copy: {why}. Make a new one with `pumasi backup create`",
            path.display()
        ),
    )
}

/// Where a copy is made before it has its name.
pub(crate) fn part(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// A new, empty file of mode 0600 for a copy to come; one left over from a crash is replaced.
///
/// # Errors
/// `Storage` when it cannot be made.
pub(crate) fn open_part(part: &Path) -> Result<File> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace", part)(error));
        }
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .map_err(failed("make", part))
}

/// Refuses a name that is taken.
///
/// # Errors
/// `Exists`.
pub(crate) fn refuse_existing(file: &Path) -> Result<()> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(Error::new(
            ErrorKind::Exists,
            format!(
                "{} exists already: a copy never replaces a file",
                file.display()
            ),
        ));
    }
    Ok(())
}

/// Makes what was written durable and gives it its name.
///
/// # Errors
/// `Storage` when the disk fails, `Exists` when the name was taken meanwhile.
pub(crate) fn finish(part: &Path, file: &Path) -> Result<()> {
    let write = failed("write", file);
    File::open(part)
        .and_then(|part| part.sync_all())
        .map_err(&write)?;
    refuse_existing(file)?;
    fs::rename(part, file).map_err(&write)?;
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(&write)
}

/// Copies the database of a data directory, whether in use or not, into an empty file.
///
/// # Errors
/// `NotFound` without a database, `Storage` when it is damaged or the disk fails.
pub(crate) fn copy(directory: &Path, part: &Path) -> Result<()> {
    let database = store::database(directory);
    if !database.exists() {
        return Err(Error::not_found(format!(
            "{} has no database: there is nothing to copy",
            directory.display()
        )));
    }
    drop(open_part(part)?);
    let source = Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    source.busy_timeout(std::time::Duration::from_secs(5))?;
    store::leave_log_alone(&source)?;
    source.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    drop(source);
    let copy = Connection::open(part)?;
    copy.execute_batch(
        "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL; BEGIN;
         CREATE TABLE backup (name TEXT PRIMARY KEY, rows INTEGER, value ANY NOT NULL) STRICT;",
    )?;
    for table in tables(&copy)? {
        let (rows, hash) = digest(&copy, &table)?;
        copy.execute(
            "INSERT INTO backup VALUES (?1, ?2, ?3)",
            params![format!("table {table}"), rows, hash],
        )?;
    }
    copy.execute(
        "INSERT INTO backup (name, value) VALUES ('version', ?1), ('made', ?2), ('program', ?3)",
        params![
            VERSION,
            read::rfc3339(clock::wall()),
            env!("CARGO_PKG_VERSION")
        ],
    )?;
    copy.execute_batch("COMMIT")?;
    Ok(())
}

/// Says what a copy holds, after everything in it was looked at.
///
/// # Errors
/// `NotFound` without the file, `Storage` with the first thing that is wrong.
pub(crate) fn verify(file: &Path) -> Result<BackupView> {
    let bytes = fs::metadata(file)
        .map_err(|error| Error::not_found(format!("cannot read {}: {error}", file.display())))?
        .len();
    let wrong = |error: rusqlite::Error| unsound(file, &error.to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags).map_err(wrong)?;
    db.execute_batch(
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0;",
    )
    .map_err(wrong)?;
    let number = |pragma: &str| {
        db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
            .map_err(wrong)
    };
    if number("application_id")? != i64::from(store::APPLICATION_ID) {
        return Err(unsound(file, "it is not a Pumasi database"));
    }
    let schema = number("user_version")?;
    if schema > store::schema_version() {
        return Err(unsound(
            file,
            &format!("it was made by a newer program (schema {schema}): use that one"),
        ));
    }
    let text = |name: &str| {
        db.query_row("SELECT value FROM backup WHERE name = ?1", [name], |row| {
            row.get::<_, String>(0)
        })
    };
    let Ok(version) = db.query_row(
        "SELECT value FROM backup WHERE name = 'version'",
        [],
        |row| row.get::<_, i64>(0),
    ) else {
        return Err(unsound(
            file,
            "it has no list of contents, so it was not made by `pumasi backup create`",
        ));
    };
    if version > VERSION {
        return Err(unsound(
            file,
            "its form is that of a newer program: use that one",
        ));
    }
    let found: String = db
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(wrong)?;
    if found != "ok" {
        return Err(unsound(
            file,
            &format!("its structure is damaged ({found})"),
        ));
    }
    let mut rows = 0;
    for table in tables(&db).map_err(wrong)? {
        let listed: (u64, Vec<u8>) = db
            .query_row(
                "SELECT rows, value FROM backup WHERE name = ?1",
                [format!("table {table}")],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(|_| {
                unsound(
                    file,
                    &format!("table `{table}` is not in its list of contents"),
                )
            })?;
        let (count, hash) = digest(&db, &table).map_err(wrong)?;
        if listed != (count, hash) {
            return Err(unsound(
                file,
                &format!("table `{table}` is not what it was when the copy was made"),
            ));
        }
        rows += count;
    }
    check_envelopes(&db, file)?;
    let accounts = db
        .prepare("SELECT account, name FROM accounts ORDER BY name")
        .and_then(|mut query| {
            query
                .query_map([], |row| {
                    Ok(BackupAccountView {
                        id: pumasi_protocol::types::AccountId(row.get(0)?).to_string(),
                        name: row.get(1)?,
                    })
                })?
                .collect()
        })
        .map_err(wrong)?;
    Ok(BackupView {
        file: file.display().to_string(),
        bytes,
        made: text("made").map_err(wrong)?,
        program: text("program").map_err(wrong)?,
        schema,
        rows,
        accounts,
    })
}

/// An envelope is named by its hash, whoever wrote it.
fn check_envelopes(db: &Connection, file: &Path) -> Result<()> {
    let wrong = |error: rusqlite::Error| unsound(file, &error.to_string());
    let mut query = db
        .prepare("SELECT envelope, bytes FROM envelopes")
        .map_err(wrong)?;
    let mut rows = query.query([]).map_err(wrong)?;
    while let Some(row) = rows.next().map_err(wrong)? {
        let (name, bytes): ([u8; 32], Vec<u8>) =
            (row.get(0).map_err(wrong)?, row.get(1).map_err(wrong)?);
        if Envelope::id_of(&bytes).0 != name {
            return Err(unsound(file, "a kept envelope does not match its name"));
        }
    }
    Ok(())
}

fn tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare(
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name <> 'backup' ORDER BY name",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}

/// Rows of a table and a hash over all of them, in the order of their keys.
fn digest(db: &Connection, table: &str) -> rusqlite::Result<(u64, Vec<u8>)> {
    // The name comes from the schema; quoted, it is a name whatever it holds.
    let sql = format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""));
    let mut query = db.prepare(&sql)?;
    let columns = query.column_count();
    let mut rows = query.query([])?;
    let (mut count, mut hash) = (0, Sha256::new());
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            let (kind, bytes): (u8, &[u8]) = match row.get_ref(column)? {
                ValueRef::Null => (0, &[]),
                ValueRef::Integer(number) => (1, &number.to_be_bytes()),
                ValueRef::Real(number) => (2, &number.to_be_bytes()),
                ValueRef::Text(text) => (3, text),
                ValueRef::Blob(blob) => (4, blob),
            };
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
    Ok((count, hash.finalize().to_vec()))
}
