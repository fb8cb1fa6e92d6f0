//! The master key that seals secrets at rest, and the file that it is kept in. No database code: rows
//! come and go as bytes.
//!
//! `identity.key` in the data directory is a small TOML text of mode 0600. It holds the 32-byte key
//! either in clear (a key file: only as safe as the disk) or wrapped under a passphrase (Argon2id,
//! RFC 9106, then XChaCha20-Poly1305). What is sealed with the key is bound to its table and row.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use pumasi_protocol::crypto::{self, Secret};
use rand::TryRng;
use rand::rngs::SysRng;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::node::Unlock;

/// Name of the key file in the data directory.
pub(crate) const KEY_FILE: &str = "identity.key";
/// Name of the database in the data directory: where it exists and the key file does not, no new key
/// is made, because it could open nothing.
pub(crate) const DATABASE_FILE: &str = "node.db";

/// Version of the key file that this program writes; newer ones are refused.
const FILE_VERSION: u32 = 1;
/// A key file is a few hundred bytes; more than this is not one.
const FILE_MAX: u64 = 16 * 1024;
/// Argon2id memory of new files, in KiB (64 MiB).
const MEMORY_KIB: u32 = 64 * 1024;
/// Argon2id passes of new files.
const PASSES: u32 = 3;
/// Argon2id lanes of new files.
const LANES: u32 = 1;
/// The most memory that a file may ask for, in KiB (1 GiB): a damaged file must not take the machine.
const MEMORY_MAX_KIB: u32 = 1024 * 1024;
/// The most passes that a file may ask for.
const PASSES_MAX: u32 = 64;
/// The most lanes that a file may ask for.
const LANES_MAX: u32 = 16;
/// Bytes of salt.
const SALT_LENGTH: usize = 16;
/// Bytes of an XChaCha20-Poly1305 nonce; it stands in front of what is sealed.
const NONCE_LENGTH: usize = 24;
/// What the wrapped key is bound to.
const WRAP_CONTEXT: &[u8] = b"pumasi identity.key v1";

/// The open master key. It leaves this struct only as ciphertext.
#[derive(Clone)]
pub(crate) struct Vault {
    key: Secret,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// The key file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
enum Stored {
    Clear {
        #[serde(rename = "version")]
        _version: u32,
        key: String,
    },
    Passphrase {
        #[serde(rename = "version")]
        _version: u32,
        kdf: String,
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        salt: String,
        sealed: String,
    },
}

/// Read first, so that a newer file is called newer and not damaged.
#[derive(Deserialize)]
struct Header {
    version: u32,
}

impl Vault {
    /// Opens the master key of a data directory, or makes one where there is neither key file nor
    /// database. With a passphrase this takes about 0.2 s and 64 MiB of memory, on purpose.
    ///
    /// # Errors
    /// [`ErrorKind::NotPermitted`]: the passphrase is wrong. [`ErrorKind::Invalid`]: a passphrase for
    /// a key file in clear, none for a wrapped one, or an empty one. [`ErrorKind::Storage`]: the file
    /// is missing though there is a database, cannot be read or written, is damaged, or was written
    /// by a newer version.
    pub(crate) fn open_or_create(data_dir: &Path, unlock: &Unlock) -> Result<Self> {
        if matches!(unlock, Unlock::Passphrase(passphrase) if passphrase.is_empty()) {
            return Err(Error::invalid(
                "the passphrase is empty: write at least one character, or use a key file",
            ));
        }
        let path = data_dir.join(KEY_FILE);
        match read(&path)? {
            Some(text) => open(&path, &text, unlock),
            None => {
                let database = data_dir.join(DATABASE_FILE);
                if database.exists() {
                    return Err(Error::damage(format!(
                        "{} is missing, but {} exists: without the key file its secrets cannot be \
                         opened. Put the key file back from where it went; if it is gone, bring the \
                         accounts back from their 24 words in an empty data directory",
                        path.display(),
                        database.display()
                    )));
                }
                create(data_dir, &path, unlock)
            }
        }
    }

    /// Seals a secret of one row. The answer is the nonce, then the ciphertext: 40 bytes longer than
    /// the plaintext. A nonce must be random, never used twice.
    #[must_use]
    pub(crate) fn seal(
        &self,
        table: &str,
        row: &[u8],
        nonce: [u8; NONCE_LENGTH],
        plaintext: &[u8],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(NONCE_LENGTH + crypto::TAG_LENGTH + plaintext.len());
        sealed.extend_from_slice(&nonce);
        sealed.extend(crypto::encrypt(
            &self.key,
            &nonce,
            &context(table, row),
            plaintext,
        ));
        sealed
    }

    /// Opens what [`Vault::seal`] made for the same table and row.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when the bytes were changed, belong to another row, or were sealed with
    /// another key.
    pub(crate) fn open(&self, table: &str, row: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let opened = bytes
            .split_first_chunk::<NONCE_LENGTH>()
            .and_then(|(nonce, ciphertext)| {
                crypto::decrypt(&self.key, nonce, &context(table, row), ciphertext).ok()
            });
        opened.map(Zeroizing::new).ok_or_else(|| {
            Error::damage(format!(
                "a secret in table `{table}` cannot be opened: the database was changed, or {KEY_FILE} \
                 is that of another data directory. Put the right one back, or bring the accounts back \
                 from their 24 words in an empty data directory"
            ))
        })
    }
}

/// Whether the key file of a data directory is there and needs a passphrase. A file that cannot be
/// read counts as not locked: opening it says what is wrong.
pub(crate) fn is_locked(data_dir: &Path) -> bool {
    let text = read(&data_dir.join(KEY_FILE)).ok().flatten();
    text.is_some_and(|text| matches!(toml::from_str(&text), Ok(Stored::Passphrase { .. })))
}

/// Table and row as associated data, with the table's length so that they never run together.
fn context(table: &str, row: &[u8]) -> Vec<u8> {
    let mut context = Vec::with_capacity(8 + table.len() + row.len());
    context.extend_from_slice(&(table.len() as u64).to_be_bytes());
    context.extend_from_slice(table.as_bytes());
    context.extend_from_slice(row);
    context
}

fn storage(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!("cannot {what} {}: {error}", path.display()),
    )
}

/// The file's text, or `None` where there is no file. Repairs a mode that lets others read it.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage("read", path, &error)),
    };
    let mode = file
        .metadata()
        .map_err(|error| storage("read", path, &error))?
        .mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "others could read the key file; its mode is now 0600"
        );
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(|error| storage("protect", path, &error))?;
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| storage("read", path, &error))?;
    if text.len() as u64 > FILE_MAX {
        return Err(damaged(path, "it is too long"));
    }
    Ok(Some(text))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::damage(format!(
        "{} is damaged: {why}. If there is no copy of it, bring the accounts back from their 24 words in \
         an empty data directory",
        path.display()
    ))
}

fn open(path: &Path, text: &str, unlock: &Unlock) -> Result<Vault> {
    // Never the parser's own words: they quote the line, and the line may be the key.
    let header: Header =
        toml::from_str(text).map_err(|_| damaged(path, "it is not TOML with a version"))?;
    if header.version > FILE_VERSION {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "{} is of version {}, this program knows {FILE_VERSION}: use a newer pumasi",
                path.display(),
                header.version
            ),
        ));
    }
    let stored: Stored =
        toml::from_str(text).map_err(|_| damaged(path, "a field is missing or unknown"))?;
    match (stored, unlock) {
        (Stored::Clear { key, .. }, Unlock::KeyFile) => {
            let key = Zeroizing::new(key);
            let key = HEXLOWER
                .decode(key.as_bytes())
                .map(Zeroizing::new)
                .map_err(|_| damaged(path, "`key` is not hexadecimal"))?;
            let key = <[u8; 32]>::try_from(key.as_slice())
                .map_err(|_| damaged(path, "`key` is not 32 bytes"))?;
            Ok(Vault { key: Secret(key) })
        }
        (Stored::Clear { .. }, Unlock::Passphrase(_)) => Err(Error::invalid(format!(
            "{} holds the key in clear, so a passphrase protects nothing: start without one",
            path.display()
        ))),
        (Stored::Passphrase { .. }, Unlock::KeyFile) => Err(Error::invalid(format!(
            "{} is locked with a passphrase: give it with --passphrase-file FILE",
            path.display()
        ))),
        (
            Stored::Passphrase {
                kdf,
                memory_kib,
                passes,
                lanes,
                salt,
                sealed,
                ..
            },
            Unlock::Passphrase(passphrase),
        ) => {
            if kdf != "argon2id" {
                return Err(damaged(path, "`kdf` is not argon2id"));
            }
            if memory_kib > MEMORY_MAX_KIB || passes > PASSES_MAX || lanes > LANES_MAX {
                return Err(damaged(path, "its Argon2id figures are far too high"));
            }
            let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
            let salt = hex(&salt).ok_or_else(|| damaged(path, "`salt` is not hexadecimal"))?;
            let sealed =
                hex(&sealed).ok_or_else(|| damaged(path, "`sealed` is not hexadecimal"))?;
            let params = Params::new(memory_kib, passes, lanes, Some(32))
                .map_err(|_| damaged(path, "its Argon2id figures do not fit together"))?;
            let wrapper = stretch(passphrase, &salt, params)
                .map_err(|_| damaged(path, "its salt is too short"))?;
            let key = sealed
                .split_first_chunk::<NONCE_LENGTH>()
                .and_then(|(nonce, sealed)| {
                    crypto::decrypt(&wrapper, nonce, WRAP_CONTEXT, sealed).ok()
                })
                .map(Zeroizing::new)
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotPermitted,
                        format!("the passphrase does not open {}: try again", path.display()),
                    )
                })?;
            let key = <[u8; 32]>::try_from(key.as_slice())
                .map_err(|_| damaged(path, "the wrapped key is not 32 bytes"))?;
            Ok(Vault { key: Secret(key) })
        }
    }
}

/// The wrapping key of a passphrase.
fn stretch(passphrase: &str, salt: &[u8], params: Params) -> argon2::Result<Secret> {
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
        passphrase.as_bytes(),
        salt,
        out.as_mut_slice(),
    )?;
    Ok(Secret(*out))
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("the system gives no random numbers: {error}"),
        )
    })?;
    Ok(bytes)
}

fn create(data_dir: &Path, path: &Path, unlock: &Unlock) -> Result<Vault> {
    let vault = Vault {
        key: Secret(random()?),
    };
    let text = match unlock {
        Unlock::KeyFile => Zeroizing::new(format!(
            "# The key that seals this Pumasi node's secrets, in clear: whoever can read this file\n\
             # and the database can act as its accounts. It is only as safe as the disk and the\n\
             # rights on it. Keep its mode 0600. Without it the database cannot be opened.\n\
             version = {FILE_VERSION}\n\
             kind = \"clear\"\n\
             key = \"{}\"\n",
            Zeroizing::new(HEXLOWER.encode(&vault.key.0)).as_str()
        )),
        Unlock::Passphrase(passphrase) => {
            let salt = random::<SALT_LENGTH>()?;
            let nonce = random::<NONCE_LENGTH>()?;
            let internal = |error: argon2::Error| {
                Error::new(ErrorKind::Internal, format!("Argon2id failed: {error}"))
            };
            let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).map_err(internal)?;
            let wrapper = stretch(passphrase, &salt, params).map_err(internal)?;
            let mut sealed = nonce.to_vec();
            sealed.extend(crypto::encrypt(
                &wrapper,
                &nonce,
                WRAP_CONTEXT,
                &vault.key.0,
            ));
            Zeroizing::new(format!(
                "# The key that seals this Pumasi node's secrets, wrapped under a passphrase. Without\n\
                 # this file, or without the passphrase, the database cannot be opened.\n\
                 version = {FILE_VERSION}\n\
                 kind = \"passphrase\"\n\
                 kdf = \"argon2id\"\n\
                 memory_kib = {MEMORY_KIB}\n\
                 passes = {PASSES}\n\
                 lanes = {LANES}\n\
                 salt = \"{}\"\n\
                 sealed = \"{}\"\n",
                HEXLOWER.encode(&salt),
                HEXLOWER.encode(&sealed)
            ))
        }
    };
    make_private_dir(data_dir)?;
    write_private(path, text.as_bytes()).map_err(|error| storage("write", path, &error))?;
    Ok(vault)
}

/// Makes a directory of mode 0700 where there is none; an existing one is left as it is.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| storage("make", path, &error))
}

/// Writes a file of mode 0600 so that it is either there whole and durable, or not at all: temporary
/// file, fsync, rename, fsync of the directory. Replaces a file of that name.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left over from a crash: nobody holds it, because the data directory is locked.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(text: &str) -> Unlock {
        Unlock::Passphrase(text.to_owned())
    }

    #[test]
    fn a_sealed_secret_opens_after_a_restart_for_its_row_only() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap();
        let sealed = vault.seal("devices", b"1", [5; 24], b"secret");
        assert_eq!(sealed.len(), b"secret".len() + 40);
        let again = Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap();
        assert_eq!(
            again.open("devices", b"1", &sealed).unwrap().as_slice(),
            b"secret"
        );
        for (table, row) in [("devices", b"2"), ("device", b"1"), ("devices1", b"\0")] {
            assert!(again.open(table, row, &sealed).is_err(), "{table}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(again.open("devices", b"1", &changed).is_err(), "bit {bit}");
        }
        for length in 0..40 {
            assert!(again.open("devices", b"1", &sealed[..length]).is_err());
        }
    }

    #[test]
    fn table_and_row_do_not_run_together() {
        let vault = Vault {
            key: Secret([1; 32]),
        };
        let sealed = vault.seal("ab", b"c", [0; 24], b"x");
        assert!(vault.open("a", b"bc", &sealed).is_err());
    }

    #[test]
    fn a_passphrase_opens_what_it_locked_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open_or_create(dir.path(), &pass("하나 둘 셋")).unwrap();
        let sealed = vault.seal("t", b"r", [1; 24], b"x");
        let again = Vault::open_or_create(dir.path(), &pass("하나 둘 셋")).unwrap();
        assert_eq!(again.open("t", b"r", &sealed).unwrap().as_slice(), b"x");
        let wrong = Vault::open_or_create(dir.path(), &pass("하나 둘")).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::NotPermitted);
        let none = Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Invalid);
        assert!(none.message().contains("--passphrase-file"), "{none}");
        let text = fs::read_to_string(dir.path().join(KEY_FILE)).unwrap();
        assert!(text.contains("memory_kib = 65536"), "{text}");
        assert!(!text.contains(&HEXLOWER.encode(&vault.key.0)));
    }

    #[test]
    fn a_passphrase_for_a_key_in_clear_or_an_empty_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap();
        let error = Vault::open_or_create(dir.path(), &pass("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let empty = tempfile::tempdir().unwrap();
        assert!(Vault::open_or_create(empty.path(), &pass("")).is_err());
        assert!(!empty.path().join(KEY_FILE).exists());
    }

    #[test]
    fn no_new_key_is_made_beside_a_database() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DATABASE_FILE), b"").unwrap();
        let error = Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap_err();
        assert!(error.message().contains("is missing"), "{error}");
        assert!(!dir.path().join(KEY_FILE).exists());
    }

    #[test]
    fn the_key_file_is_private_and_a_readable_one_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join(KEY_FILE);
        Vault::open_or_create(path.parent().unwrap(), &Unlock::KeyFile).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Vault::open_or_create(path.parent().unwrap(), &Unlock::KeyFile).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn damaged_and_newer_files_are_refused_without_showing_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let key = "ab".repeat(32);
        let texts = [
            (String::new(), "damaged"),
            (
                format!("version = 1\nkind = \"clear\"\nkey = \"{key}00\"\n"),
                "damaged",
            ),
            (
                format!("version = 1\nkind = \"clear\"\nkey = \"{key}\"\nmore = 1\n"),
                "damaged",
            ),
            (
                format!("version = 1\nkind = \"clear\"\nkey = {key}\n"),
                "damaged",
            ),
            (
                format!("version = 2\nkind = \"cloud\"\nkey = \"{key}\"\n"),
                "newer",
            ),
            ("x".repeat(20_000), "damaged"),
        ];
        for (text, expected) in texts {
            fs::write(&path, &text).unwrap();
            let error = Vault::open_or_create(dir.path(), &Unlock::KeyFile).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Storage);
            assert!(error.message().contains(expected), "{error}");
            assert!(!error.message().contains(&key), "{error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Vault::open_or_create(dir.path(), &Unlock::KeyFile).is_err());
    }

    #[test]
    fn absurd_costs_in_a_damaged_file_are_refused_before_they_are_paid() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "version = 1\nkind = \"passphrase\"\nkdf = \"argon2id\"\nmemory_kib = 4294967295\n\
             passes = 1\nlanes = 1\nsalt = \"{}\"\nsealed = \"{}\"\n",
            "00".repeat(16),
            "00".repeat(72)
        );
        fs::write(dir.path().join(KEY_FILE), text).unwrap();
        let error = Vault::open_or_create(dir.path(), &pass("x")).unwrap_err();
        assert!(error.message().contains("far too high"), "{error}");
    }

    #[test]
    fn the_key_does_not_show_in_debug() {
        assert_eq!(
            format!(
                "{:?}",
                Vault {
                    key: Secret([7; 32])
                }
            ),
            "Vault { .. }"
        );
    }
}
