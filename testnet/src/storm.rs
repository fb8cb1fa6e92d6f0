//! A network under traffic to which things may happen: set up, kept busy, and reckoned with at the end.
//! What happens is decided by others (`crash`, `corrupt`, `soak`).

use std::path::Path;

use anyhow::Result;
use tokio::task::JoinSet;

use crate::auditor::{Auditor, Who};
use crate::checker::Reckoning;
use crate::chores::Chores;
use crate::fire::settle;
use crate::layout::Layout;
use crate::network::Network;
use crate::people::{arrive, befriend};
use crate::society::friendships;
use crate::traffic::{Stage, listen, perform};
use crate::view::Board;
use crate::workload::{Frame, Planned, operations};

/// How much traffic, and from what seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) accounts: usize,
    pub(crate) seed: u64,
    /// Operations a second.
    pub(crate) rate: u32,
    /// Traffic ends after so long by itself.
    pub(crate) seconds: u64,
}

/// A network under traffic.
pub(crate) struct Storm {
    pub(crate) network: Network,
    pub(crate) stage: Stage,
    listeners: JoinSet<()>,
    traffic: JoinSet<Result<()>>,
    chores: JoinSet<Chores>,
}

impl Storm {
    /// Starts the network, makes accounts, contacts and lines, and lets traffic begin. On the node
    /// `busy`, people do everything else, too.
    pub(crate) async fn begin(
        layout: &Layout,
        weather: Weather,
        run: &Path,
        busy: Option<usize>,
    ) -> Result<Self> {
        let board = Board::new("", layout, weather.seconds);
        let network = Network::start(layout, run, false).await?;
        let friendships = friendships(weather.seed, weather.accounts);
        let homes: Vec<_> = (0..weather.accounts)
            .map(|account| account % layout.places.len())
            .collect();
        let people = arrive(&network, layout.buildings.len(), &homes, &board).await?;
        befriend(&people, &friendships, &board).await?;
        let operations = operations(
            weather.seed,
            &Frame {
                friendships: &friendships,
                burns: &vec![false; weather.accounts],
                start: 0,
                seconds: weather.seconds,
                rate: weather.rate,
                fire_at: u64::MAX,
                back_at: u64::MAX,
            },
            &mut Planned::default(),
        );
        let who = people
            .iter()
            .map(|person| Who::new(&person.name, &person.id))
            .collect();
        let auditor = Auditor::new(who, friendships.clone(), operations.clone());
        let stage = Stage::new(people, auditor, weather.seed);
        let mut listeners = JoinSet::new();
        for node in &network.nodes {
            listeners.spawn(listen(stage.clone(), node.client.clone()));
        }
        let mut traffic = JoinSet::new();
        let players = stage.clone();
        traffic.spawn(async move { perform(&players, operations).await });
        let mut chores = JoinSet::new();
        if let Some(node) = busy {
            let client = network.nodes[node].client.clone();
            let pairs = friendships
                .iter()
                .flat_map(|friends| [(friends.a, friends.b), (friends.b, friends.a)])
                .filter(|(one, _)| homes[*one] == node)
                .collect();
            chores.spawn(Chores::keep_busy(stage.clone(), client, pairs));
        }
        Ok(Self {
            network,
            stage,
            listeners,
            traffic,
            chores,
        })
    }

    /// Operations that were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        let auditor = self.stage.auditor();
        auditor.counts.texts + auditor.counts.ious + auditor.counts.refused
    }

    /// Lets traffic end, waits until everything owed is there, and reckons. All nodes must run.
    pub(crate) async fn end(mut self) -> Result<(Reckoning, Network, Stage, u64)> {
        self.stage.end();
        while let Some(result) = self.traffic.join_next().await {
            result??;
        }
        let mut done = 0;
        let mut quarrels = Vec::new();
        while let Some(chores) = self.chores.join_next().await {
            let chores = chores?;
            done += chores.done;
            quarrels.extend(chores.check(&self.stage).await);
        }
        let mut reckoning = settle(&self.stage).await?;
        self.listeners.shutdown().await;
        reckoning.broken.extend(quarrels);
        for (_, text) in self.network.fallen() {
            reckoning.broken.push(text);
        }
        for node in &self.network.nodes {
            let log = std::fs::read_to_string(&node.spec.log).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                reckoning
                    .broken
                    .push(format!("{} panicked: {line}", node.spec.name));
            }
        }
        Ok((reckoning, self.network, self.stage, done))
    }
}
