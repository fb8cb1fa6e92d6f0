//! Traffic: performs a workload over the API, and listens to the events. Open loop: what is due is begun,
//! however slow the nodes are; only texts and IOUs of one sender to one recipient keep their order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use pumasi_node::client::Client;
use pumasi_node::view::{MessageView, PaymentView};
use pumasi_node::{Error, ErrorKind};
use pumasi_protocol::delivery::State;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::auditor::{Auditor, Who};
use crate::people::Person;
use crate::society::UNIT;
use crate::workload::{Operation, What};

/// Operations of one sender to one recipient that may wait for the one before.
const QUEUE: usize = 1_024;
/// How long an operation without an answer is tried again with its key.
const PATIENCE: Duration = Duration::from_secs(40);
/// The first pause before that; it grows by itself, up to ten times.
const PAUSE: Duration = Duration::from_millis(20);

/// What all tasks of a run share.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) people: Arc<Vec<Person>>,
    /// Per account: where it lives now.
    homes: Arc<Mutex<Vec<Client>>>,
    auditor: Arc<Mutex<Auditor>>,
    /// Set when no more operations are to be begun.
    over: Arc<AtomicBool>,
    /// When traffic began.
    begun: Instant,
    /// Makes the idempotency keys of two runs different.
    seed: u64,
}

impl Stage {
    pub(crate) fn new(people: Vec<Person>, auditor: Auditor, seed: u64) -> Self {
        let homes = people.iter().map(|person| person.client.clone()).collect();
        Self {
            people: Arc::new(people),
            homes: Arc::new(Mutex::new(homes)),
            auditor: Arc::new(Mutex::new(auditor)),
            over: Arc::new(AtomicBool::new(false)),
            begun: Instant::now(),
            seed,
        }
    }

    pub(crate) fn auditor(&self) -> MutexGuard<'_, Auditor> {
        // The record stays readable when a task panicked; the run fails all the same.
        self.auditor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since traffic began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Waits for a moment of the run.
    pub(crate) async fn at(&self, micros: u64) {
        tokio::time::sleep_until((self.begun + Duration::from_micros(micros)).into()).await;
    }

    /// The building of these accounts burns: nobody there is called any more.
    pub(crate) fn burn(&self, accounts: &[usize]) {
        let now = self.now();
        self.auditor().burn(accounts, now);
    }

    /// Begins no more operations; those under way go on to their outcome.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// An account is back; from now on it is called there.
    pub(crate) fn back(&self, account: usize, client: Client) {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)[account] = client;
        let now = self.now();
        self.auditor().back(account, now);
    }

    /// An account as it lives now.
    pub(crate) fn person(&self, account: usize) -> Person {
        let homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        Person {
            client: homes[account].clone(),
            ..self.people[account].clone()
        }
    }

    /// All accounts that have a node now.
    pub(crate) fn living(&self) -> Vec<(usize, Person)> {
        let away: Vec<_> = self.auditor().people.iter().map(Who::is_away).collect();
        (0..self.people.len())
            .filter(|&account| !away[account])
            .map(|account| (account, self.person(account)))
            .collect()
    }

    /// Waits until an account has a node; whether it has one.
    async fn home(&self, account: usize) -> bool {
        loop {
            {
                let who = &self.auditor().people[account];
                if who.lost || !who.is_away() {
                    return !who.lost;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Performs all operations at their moments; returns when the last has its outcome.
pub(crate) async fn perform(stage: &Stage, operations: Vec<Operation>) -> Result<()> {
    let mut queues: BTreeMap<(usize, usize), mpsc::Sender<Operation>> = BTreeMap::new();
    let mut workers = JoinSet::new();
    for operation in operations {
        stage.at(operation.at).await;
        if stage.is_over() {
            break;
        }
        let queue = queues
            .entry((operation.from, operation.to))
            .or_insert_with(|| {
                let (queue, mut waiting) = mpsc::channel(QUEUE);
                let stage = stage.clone();
                workers.spawn(async move {
                    while let Some(operation) = waiting.recv().await {
                        one(&stage, &operation).await;
                    }
                });
                queue
            });
        queue.send(operation).await?;
    }
    let end = stage.now();
    stage.auditor().traffic_end = Some(end);
    drop(queues);
    while let Some(result) = workers.join_next().await {
        result?;
    }
    Ok(())
}

/// One operation, until it has an outcome. Where its node burns meanwhile, it is called again with the
/// same key where the account comes back.
async fn one(stage: &Stage, operation: &Operation) {
    let mut begun = Instant::now();
    let mut pause = PAUSE;
    while begun.elapsed() < PATIENCE {
        if stage.auditor().people[operation.from].is_away() {
            if !stage.home(operation.from).await {
                return;
            }
            begun = Instant::now();
        }
        let result = if operation.twice {
            let (first, second) = tokio::join!(call(stage, operation), call(stage, operation));
            let first = note(stage, operation, first);
            note(stage, operation, second) || first
        } else {
            let result = call(stage, operation).await;
            note(stage, operation, result)
        };
        if result {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause + PAUSE).min(PAUSE * 10);
    }
}

/// Writes an outcome down; whether it is one.
fn note(stage: &Stage, operation: &Operation, result: Result<(String, bool), Error>) -> bool {
    let now = stage.now();
    match result {
        Ok((id, safe)) => stage.auditor().answered(operation.number, &id, safe, now),
        Err(error) if unknown(error.kind()) => return false,
        Err(error) => {
            let (code, sentence) = (error.kind().code(), error.message());
            stage
                .auditor()
                .refused(operation.number, code, sentence, now);
        }
    }
    true
}

/// Whether an error leaves open what happened: the same key may, and must, be used again.
fn unknown(kind: ErrorKind) -> bool {
    kind.retryable() || matches!(kind, ErrorKind::Storage | ErrorKind::Internal)
}

/// One call; the id of what it made, and whether that is safe already.
async fn call(stage: &Stage, operation: &Operation) -> Result<(String, bool), Error> {
    {
        let mut auditor = stage.auditor();
        // Somebody who was away begins when back.
        let due = operation.at.max(auditor.people[operation.from].since());
        auditor.call(operation.number, due);
    }
    let person = stage.person(operation.from);
    let to = &stage.people[operation.to].id;
    let key = format!("testnet-{}-{}", stage.seed, operation.number);
    match &operation.what {
        What::Text { text, .. } => {
            let path = format!("/chats/{to}/messages");
            let body = json!({"text": text});
            let message: MessageView = person.client.post_with_key(&path, &body, &key).await?;
            Ok((message.id, message.safe || message.state == State::Safe))
        }
        What::Iou { amount, note } => {
            let amount = json!({"amount": amount.to_string(), "currency": UNIT});
            let body = json!({"to": to, "amount": amount, "note": note});
            let payment: PaymentView = person
                .client
                .post_with_key("/payments", &body, &key)
                .await?;
            Ok((payment.id, payment.safe || payment.delivery == State::Safe))
        }
    }
}

/// Calls an operation that had its effect once more with its old key; what it answered.
pub(crate) async fn repeat(stage: &Stage, operation: &Operation) -> Result<String, Error> {
    let begun = Instant::now();
    loop {
        match call(stage, operation).await {
            Ok((id, _)) => return Ok(id),
            Err(error) if !unknown(error.kind()) || begun.elapsed() > PATIENCE => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Reads a node's events into the record for as long as it is polled; goes on where it was after a
/// broken connection.
pub(crate) async fn listen(stage: Stage, client: Client) {
    let mut last = 0;
    loop {
        if let Ok(mut events) = client.events(last, &[]).await {
            while let Ok(Some(event)) = events.next().await {
                let now = stage.now();
                let mut auditor = stage.auditor();
                if last > 0 && event.seq != last + 1 {
                    auditor.event_holes += 1;
                }
                last = event.seq;
                auditor.event(&event, now);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
