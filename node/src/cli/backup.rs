//! `backup`: copies of the database, from a running daemon or a stopped directory.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::print::{Out, count, flat, say, size};
use crate::backup;
use crate::client::Client;
use crate::error::{ErrorKind, Result};
use crate::store;
use crate::view::BackupView;

/// `pumasi backup`.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Copy the database into a new file, while the daemon runs or not
    Create {
        /// The file to make; it must not exist
        file: PathBuf,
    },
    /// Look at everything in a copy and say what it holds; needs no daemon
    Verify {
        /// A file that `backup create` made
        file: PathBuf,
    },
}

/// `backup create`: asks the daemon; without one, `stopped` tells the directory to copy from.
pub(super) async fn create(
    file: &Path,
    client: Result<Client>,
    stopped: Option<PathBuf>,
    out: Out,
) -> Result<()> {
    backup::refuse_existing(file)?;
    let part = backup::part(file);
    let made = make(&part, client, stopped).await.and_then(|()| {
        backup::verify(&part)?;
        backup::finish(&part, file)
    });
    if let Err(error) = made {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    let view = backup::verify(file)?;
    out.one(&view, |view| {
        format!("Copied and verified.\n{}", screen(view))
    })?;
    if !out.is_json() {
        say(
            "This copy is for keeping, not for going back: a node that goes on from an older state would \
             sign what it has signed before. The way back is the 24 words. Texts and amounts in it are in \
             clear; secrets need identity.key, which is not in it.",
        );
    }
    Ok(())
}

async fn make(part: &Path, client: Result<Client>, stopped: Option<PathBuf>) -> Result<()> {
    let error = match client {
        Ok(client) => {
            let file = backup::open_part(part)?;
            match client.download("/backup", file).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    match stopped {
        // Nobody answers: if nobody holds the directory either, it can be read as it is.
        Some(directory)
            if error.kind() == ErrorKind::Unavailable && store::database(&directory).exists() =>
        {
            let _lock = store::lock(&directory)?;
            store::pages::check(&directory)?;
            backup::copy(&directory, part)
        }
        _ => Err(error),
    }
}

/// `backup verify`.
pub(super) fn verify(file: &Path, out: Out) -> Result<()> {
    let view = backup::verify(file)?;
    out.one(&view, |view| {
        format!("This copy is sound.\n{}", screen(view))
    })
}

fn screen(view: &BackupView) -> String {
    let mut lines = vec![
        format!("  file      {} ({})", flat(&view.file), size(view.bytes)),
        format!(
            "  made      {} by pumasi {}",
            flat(&view.made),
            flat(&view.program)
        ),
        format!("  holds     {}", count(view.rows, "row", "rows")),
    ];
    for account in &view.accounts {
        lines.push(format!(
            "  account   {} ({})",
            flat(&account.name),
            account.id
        ));
    }
    if view.accounts.is_empty() {
        lines.push("  account   none".to_owned());
    }
    lines.join("\n")
}
