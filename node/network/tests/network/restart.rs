//! A peer in another process that is killed and comes back with the same key.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pumasi_network::Event;

use crate::common::{BOTH, Node, Transport, config, ordered_pair};

const SEED: &str = "PUMASI_TEST_CHILD_SEED";
const ADDRESS: &str = "PUMASI_TEST_CHILD_CONNECT";
const MARK: &str = "listening at ";

/// The other process: echoes frames until it is killed or its standard input closes.
#[test]
fn a_node_in_a_process_of_its_own_echoes() {
    // Without the variable this is not the other process, and there is nothing to show.
    let Ok(seed) = std::env::var(SEED) else {
        return;
    };
    let transport = if std::env::var(ADDRESS).unwrap().contains("udp") {
        Transport::Quic
    } else {
        Transport::Tcp
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn_blocking(|| {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        std::process::exit(0);
    });
    runtime.block_on(async {
        let mut node = Node::start(config(seed.parse().unwrap(), transport)).await;
        writeln!(std::io::stdout(), "{MARK}{}", node.net.listening()[0]).unwrap();
        node.net
            .connect_address(std::env::var(ADDRESS).unwrap())
            .unwrap();
        while let Some(event) = node.events.recv().await {
            if let Event::Frames { peer, frames, .. } = event {
                for bytes in frames {
                    let _ = node.net.send(peer, bytes);
                }
            }
        }
    });
}

/// A child that is killed when the test is over, however it ends.
struct Other(Child);

impl Other {
    fn start(seed: u8, connect: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "restart::a_node_in_a_process_of_its_own_echoes",
                "--nocapture",
            ])
            .env(SEED, seed.to_string())
            .env(ADDRESS, connect)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains(MARK)),
            "the other process did not start"
        );
        // Keeps reading, so that the child never blocks on its output.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn echo(node: &mut Node, peer: [u8; 32], text: &str) {
    node.net.send(peer, text.as_bytes().to_vec()).unwrap();
    assert_eq!(node.frame().await.bytes, text.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_restarted_peer_has_a_new_session_at_once() {
    for transport in BOTH {
        // Both orders of keys: either side may be the one that opens.
        for (seed, other) in [(1, 2), (2, 1)] {
            let mut node = Node::start(config(seed, transport)).await;
            let key = Node::start(config(other, transport)).await.key();
            let address = node.net.listening().remove(0);
            let mut child = Other::start(other, &address);
            let mut session = node.connected(key).await;
            echo(&mut node, key, "first life").await;
            for _ in 0..2 {
                drop(child);
                child = Other::start(other, &address);
                let back = Instant::now();
                let (ended, _) = node.disconnected(key).await;
                assert_eq!(ended, session);
                let next = node.connected(key).await;
                assert!(next > session);
                session = next;
                assert!(
                    back.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    back.elapsed()
                );
                echo(&mut node, key, "another life").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_noticed_within_ten_seconds_or_so() {
    for transport in BOTH {
        let mut node = Node::start(config(1, transport)).await;
        let key = Node::start(config(2, transport)).await.key();
        let child = Other::start(2, &node.net.listening()[0]);
        node.connected(key).await;
        echo(&mut node, key, "alive").await;
        drop(child);
        let killed = Instant::now();
        // TCP may have told already.
        let _ = node.net.send(key, b"into the void".to_vec());
        node.disconnected(key).await;
        assert!(
            killed.elapsed() < Duration::from_secs(15),
            "{:?}",
            killed.elapsed()
        );
    }
}

#[tokio::test]
async fn a_network_dropped_without_goodbye_and_started_again_is_reached_again() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        crate::common::join(&mut a, &mut b).await;
        let key = b.key();
        let seed = if key == Node::start(config(1, transport)).await.key() {
            1
        } else {
            2
        };
        let same_port = b.net.listening();
        let Node {
            net, mut events, ..
        } = b;
        drop(net);
        while events.recv().await.is_some() {}
        let again = pumasi_network::Config {
            listen: same_port,
            ..config(seed, transport)
        };
        let mut b = Node::start(again).await;
        assert_eq!(b.key(), key);
        b.connect(&a);
        a.disconnected(key).await;
        a.connected(key).await;
        b.connected(a.key()).await;
        a.talk(&mut b, "again").await;
    }
}
