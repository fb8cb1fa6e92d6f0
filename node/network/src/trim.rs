//! Whom the connection manager closes. Gossip keeps every connection open for ever, so somebody
//! has to close the ones that nobody needs. Pure: no clock, no swarm.

use std::collections::HashSet;

use crate::PeerKey;

/// A connected peer, as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) peer: PeerKey,
    /// Milliseconds since a frame last went either way, or since the session began.
    pub(crate) idle_ms: u64,
}

/// The peers to close, so that `low_water` remain: the longest idle first, none that is kept or
/// was used within `spare_ms`. When too many are kept or busy, more than `low_water` remain.
pub(crate) fn choose(
    mut peers: Vec<Candidate>,
    kept: &HashSet<PeerKey>,
    low_water: usize,
    spare_ms: u64,
) -> Vec<PeerKey> {
    let surplus = peers.len().saturating_sub(low_water);
    peers.retain(|candidate| candidate.idle_ms >= spare_ms && !kept.contains(&candidate.peer));
    // By key where idle alike, so that the choice does not depend on the order of a map.
    peers.sort_unstable_by_key(|candidate| (u64::MAX - candidate.idle_ms, candidate.peer));
    peers.truncate(surplus);
    peers.into_iter().map(|candidate| candidate.peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(idle: &[u64]) -> Vec<Candidate> {
        (0..)
            .zip(idle)
            .map(|(n, &idle_ms)| Candidate {
                peer: [n; 32],
                idle_ms,
            })
            .collect()
    }

    #[test]
    fn the_longest_idle_go_first_and_only_the_surplus() {
        let chosen = choose(peers(&[50, 90, 70, 10]), &HashSet::new(), 2, 20);
        assert_eq!(chosen, [[1; 32], [2; 32]]);
        assert!(choose(peers(&[50, 90]), &HashSet::new(), 2, 20).is_empty());
    }

    #[test]
    fn pinned_and_busy_peers_stay_even_when_too_many() {
        let pinned = HashSet::from([[1; 32], [2; 32]]);
        let chosen = choose(peers(&[5, 90, 70, 60]), &pinned, 0, 20);
        assert_eq!(chosen, [[3; 32]]);
    }
}
