//! Command line: what was typed, and the checked plan that it means.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::layout::{BUILDINGS, Layout};

/// Most nodes of one network: each is a process.
const NODES_MAX: usize = 64;
/// Most accounts of one network.
const ACCOUNTS_MAX: usize = 1_000;
/// Seconds of silence after which keepers are replaced in a fire.
pub(crate) const REPLACE_AFTER: u64 = 5;
/// Most fires of one run.
const BURNS_MAX: usize = 1_000;
/// Buildings that hold a copy of what is safe.
const SAFE_BUILDINGS: usize = 2;
/// Keepers that an account has when all is well.
pub(crate) const KEEPERS: usize = 3;

/// Networks of real Pumasi daemons on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "pumasi-testnet",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    /// What to do; `fire` when nothing is said.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Options of `fire`.
    #[command(flatten)]
    pub(crate) fire: FireOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Burn a building under load and see whether everything promised holds (the default).
    Fire(FireOptions),
    /// Start a network that stays, with accounts that know each other.
    Up(UpOptions),
    /// Stop the network that `up` started, and remove it.
    Down,
    /// Show the network that `up` started.
    Status,
    /// Measure speed and size on this machine.
    Bench(BenchOptions),
    /// Kill a daemon at its writes, fail its syncs, tear its files, and see whether anything is lost.
    Crash(CrashOptions),
    /// Damage data directories in many ways and see whether it is noticed.
    Corrupt(CorruptOptions),
    /// Mix everything that can happen to a network at random, for as long as you like.
    Soak(SoakOptions),
    /// Run simulated networks on the real engine, from seeds, through every kind of disaster.
    Sim(pumasi_sim::SimOptions),
}

/// How large a network is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Size {
    /// How many nodes; each is a process.
    #[arg(long, default_value_t = 12)]
    pub(crate) nodes: usize,
    /// In how many buildings, each with an operator of its own.
    #[arg(long, default_value_t = 4)]
    pub(crate) buildings: usize,
    /// How many accounts, spread evenly over the nodes.
    #[arg(long, default_value_t = 24)]
    pub(crate) accounts: usize,
    /// Decides who knows whom, the limits, and every operation.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FireOptions {
    #[command(flatten)]
    pub(crate) size: Size,
    /// How long traffic goes on; the fire is after a third of it, the burned come back after two.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Operations a second, texts and IOUs together.
    #[arg(long, default_value_t = 50)]
    pub(crate) rate: u32,
    /// The building to burn; the first one, with the bootstrap node, when nothing is said.
    #[arg(long, value_name = "NAME")]
    pub(crate) burn: Option<String>,
    /// So many fires, one building after another, each with its own traffic of --seconds.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) burns: usize,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep the run directory (logs, data directories) at the end.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Plain lines, as when the output is not a terminal.
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpOptions {
    #[command(flatten)]
    pub(crate) size: Size,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOptions {
    /// A fraction of the time, for a first impression.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Instead: the way back of an account with much in it, repair, and a keeper that was away.
    #[arg(long)]
    pub(crate) restore: bool,
    /// With --restore: texts and IOUs of that account.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) messages: usize,
    /// With --restore: its contacts, each with a line.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What `crash` and `corrupt` have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrialOptions {
    /// Decides the operations, what goes wrong, where and how.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CrashOptions {
    /// 200 crash points instead of every write of 200 operations.
    #[arg(long)]
    pub(crate) quick: bool,
    /// So many crash points instead, spread over the writes of 200 operations.
    #[arg(long, value_name = "N")]
    pub(crate) points: Option<usize>,
    /// So many power cuts instead of 500 (quick) or 10,000.
    #[arg(long, value_name = "N")]
    pub(crate) images: Option<usize>,
    /// Operations a second while daemons crash.
    #[arg(long, default_value_t = 60)]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) trial: TrialOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CorruptOptions {
    /// How many damaged directories.
    #[arg(long, default_value_t = 500)]
    pub(crate) runs: usize,
    #[command(flatten)]
    pub(crate) trial: TrialOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SoakOptions {
    #[command(flatten)]
    pub(crate) size: Size,
    /// How long, in minutes; parts of one are allowed.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Operations a second, texts and IOUs together.
    #[arg(long, default_value_t = 30)]
    pub(crate) rate: u32,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What `fire` will do, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    pub(crate) accounts: usize,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) rate: u32,
    /// Index of the building to burn.
    pub(crate) burn: usize,
    /// How many fires.
    pub(crate) burns: usize,
    pub(crate) json: Option<PathBuf>,
    pub(crate) keep: bool,
    pub(crate) plain: bool,
    /// What the reader should know before it starts.
    pub(crate) notes: Vec<String>,
}

impl Size {
    /// The network that this size means.
    pub(crate) fn layout(&self, name: &str) -> Result<Layout> {
        ensure!(
            (2..=NODES_MAX).contains(&self.nodes),
            "--nodes must be 2 to {NODES_MAX}, not {}",
            self.nodes
        );
        ensure!(
            (1..=BUILDINGS.len()).contains(&self.buildings),
            "--buildings must be 1 to {}, not {}",
            BUILDINGS.len(),
            self.buildings
        );
        ensure!(
            self.buildings <= self.nodes,
            "{} buildings need at least as many nodes: --nodes is {}",
            self.buildings,
            self.nodes
        );
        ensure!(
            (2..=ACCOUNTS_MAX).contains(&self.accounts),
            "--accounts must be 2 to {ACCOUNTS_MAX}, not {}",
            self.accounts
        );
        // Room for every account on every node: placement is then a matter of buildings alone.
        Ok(Layout::even(
            self.nodes,
            self.buildings,
            self.accounts,
            name,
        ))
    }
}

impl FireOptions {
    /// Checks what was typed.
    pub(crate) fn check(self) -> Result<Plan> {
        let mut layout = self.size.layout(&format!("testnet-{}", self.size.seed))?;
        layout.replace_after = Some(REPLACE_AFTER);
        let buildings = self.size.buildings;
        ensure!(
            (3..=3_600).contains(&self.seconds),
            "--seconds must be 3 to 3600, not {}",
            self.seconds
        );
        ensure!(
            (1..=5_000).contains(&self.rate),
            "--rate must be 1 to 5000, not {}",
            self.rate
        );
        ensure!(
            (1..=BURNS_MAX).contains(&self.burns),
            "--burns must be 1 to {BURNS_MAX}, not {}",
            self.burns
        );
        if buildings <= SAFE_BUILDINGS {
            bail!(
                "with {buildings} buildings, {} would be left after the fire, and an item is safe \
                 only with keepers in {SAFE_BUILDINGS}: use at least {}",
                buildings - 1,
                SAFE_BUILDINGS + 1
            );
        }
        let mut notes = Vec::new();
        if buildings <= KEEPERS {
            notes.push(format!(
                "{buildings} buildings cannot keep {KEEPERS} keepers apart from the burned one: after \
                 the fire {} are left, so everything stands on exactly {SAFE_BUILDINGS} copies",
                buildings - 1
            ));
        }
        let burn = match &self.burn {
            None => 0,
            Some(name) => match layout
                .buildings
                .iter()
                .position(|building| building.is(name))
            {
                Some(found) => found,
                None => bail!(
                    "no building {name} in this network; there are {}",
                    layout
                        .buildings
                        .iter()
                        .map(|b| b.name)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            },
        };
        let left = (0..self.size.accounts)
            .filter(|&account| layout.places[account % self.size.nodes].building != burn)
            .count();
        ensure!(
            left >= 2,
            "after burning {} only {left} of {} accounts are left to talk: use more --accounts",
            layout.buildings[burn].name,
            self.size.accounts
        );
        Ok(Plan {
            layout,
            accounts: self.size.accounts,
            seed: self.size.seed,
            seconds: self.seconds,
            rate: self.rate,
            burn,
            burns: self.burns,
            json: self.json,
            keep: self.keep,
            plain: self.plain,
            notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fire(arguments: &[&str]) -> Result<Plan> {
        let cli = Cli::try_parse_from(std::iter::once(&"pumasi-testnet").chain(arguments))?;
        assert!(cli.command.is_none());
        cli.fire.check()
    }

    #[test]
    fn without_arguments_it_burns_the_building_of_the_bootstrap_node() {
        let plan = fire(&[]).unwrap();
        assert_eq!(plan.layout.places.len(), 12);
        assert_eq!(plan.layout.buildings[plan.burn].name, "pangyo");
        assert_eq!((plan.accounts, plan.seconds, plan.rate), (24, 60, 50));
        assert!(plan.notes.is_empty());
    }

    #[test]
    fn a_building_is_named_in_latin_or_korean_letters() {
        assert_eq!(fire(&["--burn", "busan"]).unwrap().burn, 2);
        assert_eq!(fire(&["--burn", "부산"]).unwrap().burn, 2);
        assert!(
            fire(&["--burn", "atlantis"])
                .unwrap_err()
                .to_string()
                .contains("pangyo, anyang")
        );
    }

    #[test]
    fn too_few_buildings_are_refused_or_explained() {
        let error = fire(&["--buildings", "2"]).unwrap_err().to_string();
        assert!(error.contains("at least 3"), "{error}");
        assert_eq!(fire(&["--buildings", "3"]).unwrap().notes.len(), 1);
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        for bad in [
            ["--nodes", "1"],
            ["--nodes", "65"],
            ["--nodes", "3"],
            ["--buildings", "17"],
            ["--accounts", "1"],
            ["--seconds", "2"],
            ["--rate", "0"],
            ["--burns", "0"],
        ] {
            assert!(fire(&bad).is_err(), "{bad:?}");
        }
    }
}
