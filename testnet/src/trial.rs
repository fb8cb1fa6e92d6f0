//! What `crash`, `corrupt` and `soak` do around their work: a run directory that stays when something is
//! wrong, a signal that ends it, the result for people and as JSON. What is tried is theirs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::network::RunDirectory;
use crate::process::{Stopped, stopped};
use crate::table::{Paint, Table, say};

/// What came of a trial.
pub(crate) struct Finding {
    pub(crate) table: Table,
    pub(crate) json: Value,
    /// Promises that did not hold, each in a sentence.
    pub(crate) broken: Vec<String>,
}

/// Runs a trial; whether everything promised held.
pub(crate) async fn run(
    name: &str,
    json: Option<&Path>,
    work: impl AsyncFnOnce(&RunDirectory) -> Result<Finding>,
) -> Result<bool> {
    let mut run = RunDirectory::new(name)?;
    let result = tokio::select! {
        result = work(&run) => result.and_then(|finding| told(finding, json)),
        error = stopped() => Err(error),
    };
    if !matches!(&result, Ok(true)) && !matches!(&result, Err(error) if error.is::<Stopped>()) {
        run.keep();
        say(&format!(
            "  Logs and data are kept in {}",
            run.path().display()
        ));
    }
    result
}

fn told(finding: Finding, json: Option<&Path>) -> Result<bool> {
    let paint = Paint::for_stdout();
    for line in finding.table.lines(paint) {
        say(&line);
    }
    if let Some(file) = json {
        std::fs::write(file, format!("{:#}\n", finding.json))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    for sentence in &finding.broken {
        say(&paint.red(&format!("  ! {sentence}")));
    }
    match finding.broken.len() {
        0 => say(&paint.green("  ok: everything promised held")),
        1 => say(&paint.red("  1 promise did not hold")),
        more => say(&paint.red(&format!("  {more} promises did not hold"))),
    }
    Ok(finding.broken.is_empty())
}
