//! Faults in a daemon's writes: a preload library of our own, compiled at run time, and what it tells.
//! Linux, and a C compiler (the project needs one anyway). `strace` could kill at a call too; it could not
//! tear a write, nor record what was written, so there is this one way.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What the library is made of.
const SOURCE: &str = include_str!("../preload/faults.c");

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Calls are counted, nothing happens.
    None,
    /// SIGKILL instead of the call.
    KillBefore,
    /// SIGKILL right after the call.
    KillAfter,
    /// Half of a write, then SIGKILL.
    KillTorn,
    /// A sync fails once.
    SyncFails,
    /// From this write on the disk is full.
    DiskFull,
}

impl Fault {
    /// In words, for tables.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::KillBefore => "killed before a call",
            Self::KillAfter => "killed after a call",
            Self::KillTorn => "killed in a write",
            Self::SyncFails => "a sync fails (EIO)",
            Self::DiskFull => "the disk is full (ENOSPC)",
        }
    }

    /// Whether the process dies by the fault, or must end by itself.
    pub(crate) fn kills(self) -> bool {
        matches!(self, Self::KillBefore | Self::KillAfter | Self::KillTorn)
    }

    fn settings(self) -> (&'static str, &'static str) {
        match self {
            Self::None | Self::KillBefore => ("any", "before"),
            Self::KillAfter => ("any", "after"),
            Self::KillTorn => ("any", "torn"),
            Self::SyncFails => ("sync", "eio"),
            Self::DiskFull => ("write", "full"),
        }
    }
}

/// The compiled library and the page that it shares with us.
#[derive(Debug)]
pub(crate) struct Faults {
    library: PathBuf,
    state: PathBuf,
}

impl Faults {
    /// Compiles it into a directory.
    pub(crate) fn compile(run: &Path) -> Result<Self> {
        let (source, library) = (run.join("faults.c"), run.join("libfaults.so"));
        std::fs::write(&source, SOURCE)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-pthread")
            .output()
            .with_context(|| format!("the C compiler {} cannot be started", compiler.display()))?;
        ensure!(
            output.status.success(),
            "the preload library does not compile:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let state = run.join("faults.state");
        Ok(Self { library, state })
    }

    /// Environment of a process with a fault at its `at`-th call on files below `data`; with `log`, all
    /// calls are recorded. Counters begin anew.
    pub(crate) fn environment(
        &self,
        data: &Path,
        fault: Fault,
        at: u64,
        log: Option<&Path>,
    ) -> Result<Vec<(String, String)>> {
        std::fs::write(&self.state, [0; 4096])?;
        let (on, act) = fault.settings();
        let at = if fault == Fault::None { 0 } else { at };
        let text = |path: &Path| path.display().to_string();
        let mut variables = vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("FAULTS_DIR".to_owned(), text(data)),
            ("FAULTS_STATE".to_owned(), text(&self.state)),
            ("FAULTS_ON".to_owned(), on.to_owned()),
            ("FAULTS_DO".to_owned(), act.to_owned()),
            ("FAULTS_AT".to_owned(), at.to_string()),
        ];
        if let Some(log) = log {
            variables.push(("FAULTS_LOG".to_owned(), text(log)));
        }
        Ok(variables)
    }

    /// Calls counted so far.
    pub(crate) fn calls(&self) -> Result<u64> {
        self.word(0)
    }

    /// Records in the log so far.
    pub(crate) fn logged(&self) -> Result<u64> {
        self.word(1)
    }

    /// Milliseconds since 1970 at which the fault happened.
    pub(crate) fn hit(&self) -> Result<Option<u64>> {
        Ok(Some(self.word(2)?).filter(|&at| at > 0))
    }

    fn word(&self, index: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        File::open(&self.state)?.read_exact_at(&mut bytes, index * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}
