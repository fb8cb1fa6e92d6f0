//! Calls with a key: the same key with the same request gives the same answer.

use pumasi_protocol::archive::Call;
use pumasi_protocol::types::{AccountId, Hash};
use rusqlite::params;

use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};

impl Engine {
    /// Whether a call with this key was answered before: the id of what came of it. The key stands
    /// for one request only.
    pub(super) fn answered_before(
        &self,
        account: &AccountId,
        scope: &str,
        key: Option<&str>,
        request: &[&[u8]],
    ) -> Result<Option<[u8; 32]>> {
        let Some(key) = key else { return Ok(None) };
        check_key(key)?;
        let row = one(self
            .db
            .prepare_cached(
                "SELECT request, result FROM idempotency
                 WHERE account = ?1 AND scope = ?2 AND key = ?3",
            )?
            .query_row(params![account.0, scope, key], |row| {
                Ok((blob(row, 0)?, blob(row, 1)?))
            }))?;
        match row {
            None => Ok(None),
            Some((hash, result)) if hash == request_hash(request) => Ok(Some(result)),
            Some(_) => Err(Error::new(
                ErrorKind::IdempotencyKeyReused,
                "this idempotency key was used for another request: use a new key",
            )),
        }
    }

    /// A call as the archive keeps it.
    pub(super) fn call_of(key: Option<&str>, request: &[&[u8]]) -> Option<Call> {
        key.map(|key| Call {
            key: key.to_owned(),
            request: Hash(request_hash(request)),
        })
    }

    /// Remembers what came of a call with a key. Returns its row.
    pub(super) fn remember_answer(
        &mut self,
        account: &AccountId,
        scope: &str,
        key: Option<&str>,
        request: &[&[u8]],
        result: &[u8; 32],
    ) -> Result<Option<i64>> {
        let Some(key) = key else { return Ok(None) };
        self.db
            .prepare_cached(
                "INSERT INTO idempotency (account, scope, key, request, result, time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                account.0,
                scope,
                key,
                request_hash(request),
                result,
                self.now.0
            ])?;
        Ok(Some(self.db.last_insert_rowid()))
    }
}

fn request_hash(request: &[&[u8]]) -> [u8; 32] {
    pumasi_protocol::crypto::hash("idempotency", request).0
}

/// A key is 1 to 255 visible ASCII characters.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(
            "an idempotency key has 1 to 255 visible ASCII characters without spaces",
        ));
    }
    Ok(())
}
