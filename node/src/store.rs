//! Opens the SQLite database: settings, migrations, the lock on the data directory. Queries stand
//! with the code that needs them; rules are not here.

pub(crate) mod pages;
mod wal;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::vault;

/// Name of the database in the data directory.
pub(crate) const DATABASE: &str = "node.db";
/// Name of the lock file in the data directory.
const LOCK: &str = "lock";
/// Name of the mark of a directory whose first start is under way.
const BEGUN: &str = "beginning";
/// SQLite versions below this one may corrupt a WAL database (WAL-reset bug).
const SQLITE_FLOOR: i32 = 3_051_003;
/// Marks the file as ours (PRAGMA application_id): "PUMA".
pub(crate) const APPLICATION_ID: i32 = 0x5055_4d41;
/// The schema, one step per version.
const MIGRATIONS: [&str; 1] = [include_str!("store/schema.sql")];
/// Checkpoint when the WAL has grown to this many pages of 4 KiB (4 MiB).
pub(crate) const CHECKPOINT_PAGES: i64 = 1_024;

/// The exclusive lock on a data directory; released when dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Makes the directory (mode 0700) and takes its lock.
///
/// # Errors
/// `Unavailable` when another process holds it, `Storage` when the directory cannot be written.
pub(crate) fn lock(directory: &Path) -> Result<DirectoryLock> {
    let storage = |what: &str, error: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Storage,
            format!(
                "{what} {}: {error}; check that the directory can be written",
                directory.display()
            ),
        )
    };
    make_private(directory).map_err(|error| storage("cannot make the data directory", &error))?;
    let path = directory.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| storage("cannot open the lock file in", &error))?;
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&file, exclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        let by = if holder.is_empty() {
            String::new()
        } else {
            format!(" (process {holder})")
        };
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} is in use by another daemon{by}: stop it first, or name another directory with --data-dir",
                directory.display()
            ),
        ));
    }
    let write = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    write.map_err(|error| storage("cannot write the lock file in", &error))?;
    Ok(DirectoryLock { _file: file })
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Path of the database of a data directory.
pub(crate) fn database(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

/// Path of the write-ahead log of a data directory.
pub(crate) fn log(directory: &Path) -> PathBuf {
    directory.join("node.db-wal")
}

/// Refuses a directory that lost its database, and marks one that is begun: a key file without a
/// database is then known for what it is, the first start cut short.
///
/// # Errors
/// `Storage` when the database is gone or empty though the key file is there, or the disk fails.
pub(crate) fn begin(directory: &Path) -> Result<()> {
    let marker = directory.join(BEGUN);
    let is_there = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    let (key, database) = (directory.join(vault::KEY_FILE), database(directory));
    if is_there(&database) || is_there(&marker) {
        return Ok(());
    }
    if key.exists() {
        let what = if database.exists() { "empty" } else { "gone" };
        return Err(Error::damage(format!(
            "{} is {what}, but {} is here: this directory belonged to a node, and nothing is begun anew \
             in it. Put the database back if it was only moved; else bring the accounts back from their \
             24 words in an empty data directory",
            database.display(),
            key.display()
        )));
    }
    vault::write_private(&marker, b"This directory is being set up.\n")
        .map_err(|error| unwritable(&marker, &error))
}

/// Takes the mark of [`begin`] away, once the database holds what it must.
///
/// # Errors
/// `Storage` when the disk fails.
pub(crate) fn begun(directory: &Path) -> Result<()> {
    let marker = directory.join(BEGUN);
    match std::fs::remove_file(&marker) {
        Ok(()) => File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| unwritable(&marker, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unwritable(&marker, &error)),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!("{} cannot be written: {error}", path.display()),
    )
}

/// Opens the one connection that writes, and brings the schema up to date.
///
/// # Errors
/// `Storage` when the file is damaged, not ours, written by a newer program, or cannot be opened.
pub(crate) fn open(directory: &Path) -> Result<Connection> {
    let path = database(directory);
    if rusqlite::version_number() < SQLITE_FLOOR {
        let version = rusqlite::version();
        return Err(Error::new(
            ErrorKind::Storage,
            format!("SQLite {version} may corrupt databases; 3.51.3 or newer is needed"),
        ));
    }
    let explained = |error: rusqlite::Error| {
        Error::new(
            ErrorKind::Storage,
            format!(
                "cannot open {}: {error}; the file may be damaged or not writable. Nothing was changed",
                path.display()
            ),
        )
    };
    let db = Connection::open(&path).map_err(explained)?;
    settings(&db).map_err(explained)?;
    migrate(&db, &path)?;
    Ok(db)
}

/// Lets SQLite look at the structure of the whole database: where no checksums tell that it is sound.
///
/// # Errors
/// `Storage` when it is damaged.
pub(crate) fn check_structure(db: &Connection, directory: &Path) -> Result<()> {
    let problem: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if problem == "ok" {
        return Ok(());
    }
    Err(Error::damage(format!(
        "{} is damaged ({problem}). Bring the accounts back from their 24 words in an empty data \
         directory",
        database(directory).display()
    )))
}

/// Prepared statements stay prepared: otherwise SQLite plans those again, at every use, whose plan
/// could depend on what is bound (here: whether a partial index serves).
fn keep_plans(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn settings(db: &Connection) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(256);
    keep_plans(db)?;
    leave_log_alone(db)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA mmap_size = 0;
         PRAGMA busy_timeout = 5000;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA cache_size = -8192;
         PRAGMA temp_store = MEMORY;",
    )
}

/// Version of the schema that this program writes.
pub(crate) fn schema_version() -> i64 {
    MIGRATIONS.len() as i64
}

/// Checkpoints are made where the page checksums are written, and nowhere else: not when a connection
/// closes.
///
/// # Errors
/// When SQLite refuses.
pub(crate) fn leave_log_alone(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// A connection that only reads, for lists.
///
/// # Errors
/// `Storage` when the file cannot be opened.
pub(crate) fn open_reader(directory: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(database(directory), flags)?;
    db.set_prepared_statement_cache_capacity(64);
    keep_plans(&db)?;
    leave_log_alone(&db)?;
    db.execute_batch(
        "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0;
         PRAGMA busy_timeout = 5000; PRAGMA cache_size = -2048;",
    )?;
    Ok(db)
}

fn migrate(db: &Connection, path: &Path) -> Result<()> {
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
    };
    let known = schema_version();
    let version = number("user_version")?;
    let ours = number("application_id")?;
    if ours != 0 && ours != i64::from(APPLICATION_ID) {
        return Err(Error::new(
            ErrorKind::Storage,
            format!("{} is not a Pumasi database", path.display()),
        ));
    }
    if version > known {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "{} was written by a newer program (schema {version}, known here: {known}): update",
                path.display()
            ),
        ));
    }
    if version > 0 && version < known {
        let copy = path.with_extension(format!("before-{known}.db"));
        db.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    }
    for step in version..known {
        let sql = MIGRATIONS[usize::try_from(step).unwrap_or_default()];
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {sql} PRAGMA user_version = {}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;",
            step + 1
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_opens_again_and_keeps_its_settings() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()).unwrap());
        let db = open(directory.path()).unwrap();
        let mode: String = db
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
        let synchronous: i64 = db
            .query_row("PRAGMA synchronous", [], |row| row.get(0))
            .unwrap();
        assert_eq!(synchronous, 2);
    }

    #[test]
    fn a_second_daemon_on_the_same_directory_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let error = lock(directory.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.message().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        assert!(lock(directory.path()).is_ok());
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let db = open(directory.path()).unwrap();
        db.execute_batch("PRAGMA user_version = 99").unwrap();
        drop(db);
        let error = open(directory.path()).unwrap_err();
        assert!(error.message().contains("newer program"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let garbage = vec![0x5a; 8_192];
        std::fs::write(&path, &garbage).unwrap();
        assert_eq!(
            open(directory.path()).unwrap_err().kind(),
            ErrorKind::Storage
        );
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
    }

    #[test]
    fn a_foreign_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let db = Connection::open(database(directory.path())).unwrap();
        db.execute_batch("PRAGMA application_id = 7; CREATE TABLE t (x)")
            .unwrap();
        drop(db);
        let error = open(directory.path()).unwrap_err();
        assert!(error.message().contains("not a Pumasi database"), "{error}");
    }
}
