//! Own accounts: making one, its record and its keys. The phrase leaves this file once, to the caller.

use pumasi_protocol::archive::Record;
use pumasi_protocol::codec::{self, Wire as _};
use pumasi_protocol::crypto::{Secret, Signed, SigningKey};
use pumasi_protocol::envelope::Body;
use pumasi_protocol::identity::{DeviceCertificate, Phrase, RootKeys, next_epoch};
use pumasi_protocol::placement::safe_copies_for;
use pumasi_protocol::record::{
    AccountRecord, CheckedRecord, KeeperEntry, KeyBundle, NAME_MAX, Place,
};
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, DeviceKey, NodeId};
use pumasi_protocol::wire::Request;
use rusqlite::params;
use zeroize::Zeroize as _;

use super::archiving::{self, Archive};
use super::level::Level;
use super::peers::Purpose;
use super::types::{DeviceSecrets, Own, with_encoded};
use super::{Engine, one};
use crate::error::{Error, ErrorKind, Result};
use crate::ratchet::RatchetAccount;
use crate::read;
use crate::view::{AccountView, NewAccountView};

/// Accounts on one node at most.
const ACCOUNTS_MAX: usize = 256;

/// A name of an account or contact: trimmed, not empty, no control characters, bounded.
pub(super) fn checked_name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Error::invalid("the name is empty"));
    }
    if name.len() > NAME_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the name is {} bytes long; at most {NAME_MAX} are allowed",
                name.len()
            ),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid("the name has control characters"));
    }
    Ok(name.to_owned())
}

impl Engine {
    pub(super) fn load_node_key(&mut self) -> Result<()> {
        let sealed: Option<Vec<u8>> =
            one(self
                .db
                .query_row("SELECT value FROM meta WHERE key = 'node-key'", [], |row| {
                    row.get(0)
                }))?;
        let seed = match sealed {
            Some(sealed) => {
                let plain = self.vault.open("meta", b"node-key", &sealed)?;
                let seed: [u8; 32] = plain.as_slice().try_into().map_err(|_| {
                    Error::new(
                        ErrorKind::Storage,
                        "the node key in the database is damaged",
                    )
                })?;
                Secret(seed)
            }
            None => {
                let seed = Secret(self.random());
                let sealed = self.seal_secret("meta", b"node-key", &seed.0);
                self.db.execute(
                    "INSERT INTO meta (key, value) VALUES ('node-key', ?1)",
                    params![sealed],
                )?;
                seed
            }
        };
        self.key = SigningKey::from_seed(&seed.0);
        self.me = NodeId(self.key.public());
        let network: Option<Vec<u8>> =
            one(self
                .db
                .query_row("SELECT value FROM meta WHERE key = 'network'", [], |row| {
                    row.get(0)
                }))?;
        match network {
            None => {
                self.db.execute(
                    "INSERT INTO meta (key, value) VALUES ('network', ?1)",
                    params![self.settings.network.as_bytes()],
                )?;
            }
            Some(network) if network != self.settings.network.as_bytes() => {
                return Err(Error::invalid(format!(
                    "this data directory belongs to network `{}`, not `{}`: use another directory",
                    String::from_utf8_lossy(&network),
                    self.settings.network
                )));
            }
            Some(_) => {}
        }
        Ok(())
    }

    pub(super) fn load_accounts(&mut self) -> Result<()> {
        struct Row {
            account: [u8; 32],
            name: String,
            record: Vec<u8>,
            keys: Vec<u8>,
            secrets: Vec<u8>,
            ratchet: Vec<u8>,
            created: u64,
            stopped: i64,
        }
        let rows: Vec<Row> = self
            .db
            .prepare("SELECT account, name, record, keys, secrets, ratchet, created, stopped FROM accounts")?
            .query_map([], |row| {
                Ok(Row {
                    account: row.get(0)?,
                    name: row.get(1)?,
                    record: row.get(2)?,
                    keys: row.get(3)?,
                    secrets: row.get(4)?,
                    ratchet: row.get(5)?,
                    created: row.get(6)?,
                    stopped: row.get(7)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        for row in rows {
            let damaged = |what: &str| {
                Error::new(
                    ErrorKind::Storage,
                    format!("{what} of account {} in the database is damaged", row.name),
                )
            };
            let plain = self.vault.open("accounts", &row.account, &row.secrets)?;
            let secrets: DeviceSecrets =
                codec::decode(&plain).map_err(|_| damaged("the device key"))?;
            let ratchet = self.vault.open("ratchets", &row.account, &row.ratchet)?;
            let record = codec::decode(&row.record).map_err(|_| damaged("the record"))?;
            let own = Own {
                name: row.name.clone(),
                record: CheckedRecord::check(record).map_err(|_| damaged("the record"))?,
                keys: codec::decode(&row.keys).map_err(|_| damaged("the key bundle"))?,
                device: SigningKey::from_seed(&secrets.device.0),
                seal: secrets.seal.clone(),
                ratchet: RatchetAccount::from_bytes(&ratchet)
                    .map_err(|_| damaged("the ratchet state"))?,
                created: pumasi_protocol::types::Time(row.created),
                locator: SigningKey::from_seed(&secrets.locator.0),
                archive: self.load_archive(&AccountId(row.account))?,
                level: Level::from_code(row.stopped),
            };
            self.accounts.insert(AccountId(row.account), own);
        }
        self.begin_levels();
        Ok(())
    }

    /// Makes an account with a fresh phrase. The phrase is in the answer and nowhere else.
    pub(crate) fn create_account(&mut self, name: &str) -> Result<NewAccountView> {
        let name = checked_name(name)?;
        if self.accounts.len() >= ACCOUNTS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a node has at most {ACCOUNTS_MAX} accounts"),
            ));
        }
        if self.accounts.values().any(|own| own.name == name) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("there is an account called `{name}` on this node already"),
            ));
        }
        let mut entropy = self.random();
        let phrase = Phrase::from_entropy(&entropy);
        entropy.zeroize();
        let root = phrase.keys();
        let epoch = next_epoch(0, self.now);
        let own = self.new_device(&root, &name, epoch, vec![])?;
        let account = own.id();
        let view = read::account_view(&own);
        self.insert_account(own)?;
        self.archive(account, Record::Name(name));
        self.due.keepers_now();
        Ok(NewAccountView {
            account: view,
            phrase: phrase.words().map(str::to_owned).collect(),
        })
    }

    /// A new device for an account, with everything that it signs with. Nothing is stored.
    pub(super) fn new_device(
        &mut self,
        root: &RootKeys,
        name: &str,
        epoch: u64,
        keepers: Vec<KeeperEntry>,
    ) -> Result<Own> {
        let account = root.account();
        let device = SigningKey::from_seed(&self.random());
        let seal = Secret(self.random());
        let recovery = seal::public_key(&root.recovery);
        let mut ratchet = RatchetAccount::new();
        let bundle = KeyBundle {
            account,
            epoch,
            device_seal: seal::public_key(&seal).into(),
            recovery_seal: recovery.clone().into(),
            ratchet_identity: ratchet.identity(),
            last_resort: ratchet.fallback(),
        };
        let keys = Signed::sign(&bundle, &device);
        let certificate = DeviceCertificate::issue(root, DeviceKey(device.public()), epoch);
        let record = AccountRecord {
            certificate: certificate.clone(),
            version: 1,
            name: name.to_owned(),
            home: Place {
                node: self.me,
                addresses: self.due.addresses.clone(),
            },
            safe_copies: safe_copies_for(keepers.len()),
            keepers,
            keys: keys.hash(),
        };
        let record = sign_record(&record, &device)?;
        let (volume, first) =
            archiving::new_volume(certificate, account, &recovery, &device, &self.random())?;
        Ok(Own {
            name: name.to_owned(),
            record,
            keys,
            device,
            seal,
            ratchet,
            created: self.now,
            locator: SigningKey::from_seed(&root.locator.seed().0),
            archive: Archive::new(volume, first, 0),
            level: Level::Active,
        })
    }

    /// Stores a new device and begins to use it.
    pub(super) fn insert_account(&mut self, own: Own) -> Result<()> {
        let account = own.id();
        let secrets = DeviceSecrets {
            device: own.device.seed(),
            seal: own.seal.clone(),
            locator: own.locator.seed(),
        };
        let sealed = with_encoded(&secrets, |plain| {
            self.seal_secret("accounts", &account.0, plain)
        });
        let ratchet = self.seal_secret("ratchets", &account.0, &own.ratchet.to_bytes());
        self.db.execute(
            "INSERT INTO accounts (account, name, record, keys, secrets, ratchet, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                account.0,
                own.name,
                codec::encode(&own.record.signed),
                codec::encode(&own.keys),
                sealed,
                ratchet,
                own.created.0
            ],
        )?;
        self.store_volume(&own.archive.volume)?;
        self.accounts.insert(account, own);
        self.store_archive(account)
    }

    /// Changes the name in the record.
    pub(crate) fn rename_account(
        &mut self,
        account: &AccountId,
        name: &str,
    ) -> Result<AccountView> {
        let name = checked_name(name)?;
        if self
            .accounts
            .values()
            .any(|own| own.name == name && own.id() != *account)
        {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("there is an account called `{name}` on this node already"),
            ));
        }
        self.may_sign(account)?;
        let new_name = name.clone();
        self.change_record(account, |record| record.name = new_name)?;
        self.db.execute(
            "UPDATE accounts SET name = ?2 WHERE account = ?1",
            params![account.0, name],
        )?;
        if let Some(own) = self.accounts.get_mut(account) {
            own.name.clone_from(&name);
        }
        self.archive(*account, Record::Name(name));
        Ok(read::account_view(self.own(account)?))
    }

    /// Signs the next version of an account's record, and tells keepers and contacts.
    pub(super) fn change_record(
        &mut self,
        account: &AccountId,
        change: impl FnOnce(&mut AccountRecord),
    ) -> Result<()> {
        let own = self.own(account)?;
        let mut record = own.record.record.clone();
        change(&mut record);
        if record == own.record.record {
            return Ok(());
        }
        record.version = own.record.record.version.saturating_add(1);
        let checked = sign_record(&record, &own.device)?;
        self.db.execute(
            "UPDATE accounts SET record = ?2 WHERE account = ?1",
            params![account.0, codec::encode(&checked.signed)],
        )?;
        if let Some(own) = self.accounts.get_mut(account) {
            own.record = checked.clone();
        }
        self.archive_under(account);
        for keeper in &checked.record.keepers {
            self.tell_keeper(account, keeper.place.node)?;
        }
        self.due.locate_soon(self.now);
        let contacts = self.active_contacts(account)?;
        for contact in contacts {
            let body = Body::Record(Box::new(checked.signed.clone()));
            self.send_content(*account, contact, body)?;
        }
        Ok(())
    }

    /// Sends the current record to a keeper, and what it needs to hand out.
    pub(super) fn tell_keeper(&mut self, account: &AccountId, keeper: NodeId) -> Result<()> {
        if self.held_back(account, &keeper) {
            return Ok(());
        }
        let own = self.own(account)?;
        let version = own.record.version();
        let request = Request::Record {
            record: own.record.signed.clone(),
            keys: own.keys.clone(),
        };
        self.ask(keeper, request, Purpose::TellKeeper(*account, version));
        let request = Request::OneTimeKeys {
            account: *account,
            keys: vec![],
        };
        self.ask(keeper, request, Purpose::Stock(*account));
        Ok(())
    }

    /// The node's addresses changed: every account's record and the node record follow.
    pub(super) fn own_addresses(&mut self, addresses: Vec<String>) -> Result<()> {
        if self.due.addresses == addresses {
            return Ok(());
        }
        self.due.addresses.clone_from(&addresses);
        self.due.publish_now();
        let accounts: Vec<AccountId> = self.accounts.keys().copied().collect();
        for account in accounts {
            if self.is_level(&account) {
                self.follow_addresses(&account)?;
            }
        }
        Ok(())
    }

    /// The record follows the node's addresses.
    pub(super) fn follow_addresses(&mut self, account: &AccountId) -> Result<()> {
        let home = Place {
            node: self.me,
            addresses: self.due.addresses.clone(),
        };
        self.change_record(account, |record| record.home = home)
    }

    pub(super) fn store_ratchet(&mut self, account: AccountId) -> Result<()> {
        let Some(own) = self.accounts.get(&account) else {
            return Ok(());
        };
        let plain = own.ratchet.to_bytes();
        let sealed = self.seal_secret("ratchets", &account.0, &plain);
        self.db
            .prepare_cached("UPDATE accounts SET ratchet = ?2 WHERE account = ?1")?
            .execute(params![account.0, sealed])?;
        Ok(())
    }
}

/// Checks bounds, signs, and reads back as anybody else would.
pub(super) fn sign_record(record: &AccountRecord, device: &SigningKey) -> Result<CheckedRecord> {
    let wrong = |error: pumasi_protocol::record::RecordError| Error::invalid(error.to_string());
    record.check_bounds().map_err(wrong)?;
    let signed = Signed::sign(record, device);
    if signed.bytes().len() > AccountRecord::MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            "the account record is too large",
        ));
    }
    CheckedRecord::check(signed).map_err(wrong)
}
