-- Version 1. Amounts and counters that need all of 64 bits are stored inside versioned blobs; times
-- are milliseconds since 1970. Secrets are sealed by the vault (see vault.rs) before they come here.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Accounts whose device is on this node.
CREATE TABLE accounts (
  account  BLOB PRIMARY KEY,
  name     TEXT NOT NULL UNIQUE,
  record   BLOB NOT NULL,            -- Signed<AccountRecord>
  keys     BLOB NOT NULL,            -- Signed<KeyBundle>
  secrets  BLOB NOT NULL,            -- sealed: device seed, device seal seed, locator seed
  ratchet  BLOB NOT NULL,            -- sealed: Olm account
  stopped  INTEGER NOT NULL DEFAULT 0, -- 1: this database is an older copy; 2: replaced
  created  INTEGER NOT NULL
) STRICT;

-- How far the archive of an own account goes.
CREATE TABLE archives (
  account BLOB PRIMARY KEY,
  epoch   INTEGER NOT NULL,
  keys    BLOB NOT NULL,             -- sealed: archive::PageKeys of the next page
  safe    INTEGER NOT NULL           -- pages up to this one are safe
) STRICT, WITHOUT ROWID;

CREATE TABLE contacts (
  account  BLOB NOT NULL,
  contact  BLOB NOT NULL,
  name     TEXT NOT NULL,
  active   INTEGER NOT NULL,         -- 0: invited, 1: the other side answered
  record   BLOB NOT NULL,            -- Signed<AccountRecord>
  keys     BLOB,                     -- Signed<KeyBundle>, once fetched
  secrets  BLOB NOT NULL,            -- sealed: capabilities, today's seal keys
  former   BLOB NOT NULL,            -- certificates of its earlier devices
  introduced INTEGER NOT NULL,       -- epoch of the own device that it is known to know
  verified INTEGER NOT NULL DEFAULT 0,
  blocked  INTEGER NOT NULL DEFAULT 0,
  added    INTEGER NOT NULL,
  page     INTEGER NOT NULL DEFAULT 0, -- where it was archived last
  PRIMARY KEY (account, contact)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX contacts_name ON contacts (account, name);
CREATE INDEX contacts_by_contact ON contacts (contact);
CREATE INDEX contacts_page ON contacts (account, page);

-- What changes with every message: apart from the rest of a contact, which is ten times as large.
CREATE TABLE conversations (
  account  BLOB NOT NULL,
  contact  BLOB NOT NULL,
  chat     BLOB NOT NULL,            -- chat::Chat
  sessions BLOB,                     -- sealed: Olm sessions with the contact's device
  PRIMARY KEY (account, contact)
) STRICT, WITHOUT ROWID;

-- Invitations given out and not yet used up.
CREATE TABLE invitations (
  account    BLOB NOT NULL,
  capability BLOB NOT NULL,          -- its id, as on envelopes
  name       TEXT,                   -- what the one who comes will be called
  used_by    BLOB,                   -- the contact that used it; others are refused
  expires    INTEGER NOT NULL,
  page       INTEGER NOT NULL DEFAULT 0, -- where it was archived last
  PRIMARY KEY (account, capability)
) STRICT, WITHOUT ROWID;

-- What people see: texts and IOUs, both directions.
CREATE TABLE messages (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  account    BLOB NOT NULL,
  contact    BLOB NOT NULL,
  message    BLOB NOT NULL,
  outgoing   INTEGER NOT NULL,
  kind       INTEGER NOT NULL,       -- 0: text, 1: IOU
  epoch      INTEGER NOT NULL,       -- of the device that wrote it
  sequence   INTEGER NOT NULL,
  time       INTEGER NOT NULL,
  content    BLOB NOT NULL,          -- encoded Content, or Signed<Entry> of an IOU
  payment    BLOB,                   -- of an IOU
  state      INTEGER NOT NULL,       -- delivery::State::code
  safe       INTEGER NOT NULL DEFAULT 0,
  buildings  INTEGER NOT NULL DEFAULT 0,
  safe_until INTEGER,
  gap        INTEGER NOT NULL DEFAULT 0,
  envelope   BLOB,                   -- received: the envelope that brought it
  call       INTEGER,                -- the call that made it (idempotency.id), if that had a key
  volume     INTEGER NOT NULL DEFAULT 0, -- of the archive: epoch of the device that wrote the page
  page       INTEGER NOT NULL DEFAULT 0, -- of that volume
  marked     INTEGER NOT NULL DEFAULT 0, -- page of the own volume that has its last mark
  UNIQUE (account, message)
) STRICT;
CREATE INDEX messages_shown ON messages (account, contact, time, sequence, message);
CREATE INDEX messages_sequence ON messages (account, contact, outgoing, epoch, sequence) WHERE kind = 0;
CREATE INDEX messages_page ON messages (account, volume, page);
CREATE INDEX messages_marked ON messages (account, marked) WHERE marked > 0;
CREATE INDEX messages_unsafe ON messages (account, volume, page) WHERE kind = 1 AND safe = 0;
CREATE INDEX messages_unread ON messages (account, contact) WHERE outgoing = 0 AND state < 4;
CREATE INDEX messages_waiting ON messages (account, contact) WHERE outgoing = 1 AND safe = 0;
CREATE INDEX messages_payment ON messages (account, payment) WHERE payment IS NOT NULL;

-- What was deleted: not shown again, whatever else is found.
CREATE TABLE deleted (
  account BLOB NOT NULL,
  id      BLOB NOT NULL,
  kind    INTEGER NOT NULL,          -- 0: message, 1: contact, 2: invitation
  page    INTEGER NOT NULL,          -- of the own volume
  PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deleted_page ON deleted (account, page);

-- Contents that people do not see (Hello, Welcome, ...) and that were acted on: sealed again, they
-- may come in several envelopes.
CREATE TABLE acted_on (
  account BLOB NOT NULL,
  message BLOB NOT NULL,
  time    INTEGER NOT NULL,
  PRIMARY KEY (account, message)
) STRICT, WITHOUT ROWID;
CREATE INDEX acted_on_time ON acted_on (time);

-- Sendings under way: until delivered and safe. Their dates rise with their rows.
CREATE TABLE outgoing (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  account   BLOB NOT NULL,
  contact   BLOB NOT NULL,
  message   BLOB NOT NULL,
  shown     INTEGER,                 -- messages.id, of what people see
  kind      INTEGER NOT NULL,        -- 0: encoded Content, 1: Signed<Entry>
  payload   BLOB NOT NULL,
  envelope  BLOB,                    -- id, once sealed
  bytes     BLOB,                    -- the envelope
  receipts  BLOB NOT NULL,           -- keepers that signed, and until when
  delivered INTEGER NOT NULL DEFAULT 0,
  expires   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX outgoing_envelope ON outgoing (envelope) WHERE envelope IS NOT NULL;
CREATE INDEX outgoing_contact ON outgoing (account, contact);

-- What is to be handed to which node; a row goes when that node has answered.
CREATE TABLE outbox (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  node BLOB NOT NULL,
  kind INTEGER NOT NULL,             -- 0: envelope (outgoing.id), 1: statement (statements.id)
  item INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_node ON outbox (node, id);
CREATE INDEX outbox_item ON outbox (kind, item);

-- Custody receipts as proof: the signed bytes once, whatever the number of envelopes on them. Cleaned
-- in the order of their rows.
CREATE TABLE receipts (
  id    INTEGER PRIMARY KEY AUTOINCREMENT,
  until INTEGER NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
-- By row number, so that what is signed for together stands together.
CREATE TABLE receipt_items (
  kind    INTEGER NOT NULL,          -- 0: a message (messages.id), 1: a page (pages.id)
  item    INTEGER NOT NULL,
  keeper  BLOB NOT NULL,
  receipt INTEGER NOT NULL,
  PRIMARY KEY (kind, item, keeper)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_items_receipt ON receipt_items (receipt);

-- The last shelf receipt of each keeper: it signed that it holds every page of an own account's archive
-- that was live when it was asked.
CREATE TABLE shelf_receipts (
  account BLOB NOT NULL,
  keeper  BLOB NOT NULL,
  pages   BLOB NOT NULL,             -- hash over the set
  asked   INTEGER NOT NULL,
  until   INTEGER NOT NULL,
  bytes   BLOB NOT NULL,
  PRIMARY KEY (account, keeper)
) STRICT, WITHOUT ROWID;

-- Keepers of own accounts that could not prove that they hold what they signed for. A row goes when the
-- keeper is listed no more.
CREATE TABLE failed_keepers (
  account BLOB NOT NULL,
  keeper  BLOB NOT NULL,
  PRIMARY KEY (account, keeper)
) STRICT, WITHOUT ROWID;

-- What owners said about their mailboxes: own accounts' and kept ones'.
CREATE TABLE statements (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  mailbox BLOB NOT NULL,
  hash    BLOB NOT NULL UNIQUE,
  time    INTEGER NOT NULL,
  lasting INTEGER NOT NULL,          -- 0: passing; 1: grants, revocations; 2: for one sender only
  bytes   BLOB NOT NULL
) STRICT;
CREATE INDEX statements_mailbox ON statements (mailbox, time, lasting, hash);
CREATE INDEX statements_time ON statements (time) WHERE lasting <> 1;
-- Envelopes that their owner has acknowledged, and by which statement.
CREATE TABLE acknowledged (
  envelope  BLOB PRIMARY KEY,
  mailbox   BLOB NOT NULL,
  statement INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX acknowledged_statement ON acknowledged (statement);

-- Who may leave envelopes in a mailbox, own or kept.
CREATE TABLE capabilities (
  mailbox    BLOB NOT NULL,
  capability BLOB NOT NULL,
  tag_key    BLOB NOT NULL,
  revoked    INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (mailbox, capability)
) STRICT, WITHOUT ROWID;

-- Mailboxes kept for others.
CREATE TABLE kept (
  mailbox BLOB PRIMARY KEY,
  contact INTEGER NOT NULL,          -- kept for a contact, else for a newcomer
  record  BLOB NOT NULL,             -- Signed<AccountRecord>
  keys    BLOB NOT NULL,             -- Signed<KeyBundle>
  since   INTEGER NOT NULL,
  ended   INTEGER                    -- since when the record does not name this node
) STRICT, WITHOUT ROWID;
CREATE INDEX kept_ended ON kept (ended) WHERE ended IS NOT NULL;
-- Kept: envelopes for others. Own: envelopes that this device could not open.
CREATE TABLE envelopes (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  mailbox    BLOB NOT NULL,
  envelope   BLOB NOT NULL UNIQUE,
  created    INTEGER NOT NULL,
  expires    INTEGER NOT NULL,
  hidden     INTEGER,                -- when its owner acknowledged it
  covered    INTEGER NOT NULL DEFAULT 0, -- a page that holds its content is held, too
  capability BLOB NOT NULL,
  seals      BLOB NOT NULL,          -- names of the seal keys it needs, 16 bytes each
  bytes      BLOB NOT NULL
) STRICT;
CREATE INDEX envelopes_live ON envelopes (mailbox, created, envelope, hidden) WHERE hidden IS NULL;
CREATE INDEX envelopes_hidden ON envelopes (hidden) WHERE hidden IS NOT NULL AND covered = 1;
CREATE INDEX envelopes_expires ON envelopes (expires);
CREATE TABLE encapsulations (
  mailbox BLOB NOT NULL,
  name    BLOB NOT NULL,
  expires INTEGER NOT NULL,
  bytes   BLOB NOT NULL,
  PRIMARY KEY (mailbox, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX encapsulations_expires ON encapsulations (expires);
-- Archives: own ones, and those kept for others.
CREATE TABLE volumes (
  mailbox     BLOB NOT NULL,
  epoch       INTEGER NOT NULL,
  certificate BLOB NOT NULL,         -- its hash: a clone has another
  bytes       BLOB NOT NULL,         -- Signed<Volume>
  PRIMARY KEY (mailbox, epoch, certificate)
) STRICT, WITHOUT ROWID;
CREATE TABLE pages (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  mailbox   BLOB NOT NULL,
  page      BLOB NOT NULL UNIQUE,
  epoch     INTEGER NOT NULL,
  number    INTEGER NOT NULL,
  run_epoch INTEGER,                 -- of a segment: the pages that it stands for
  run_first INTEGER,
  run_last  INTEGER,
  time      INTEGER NOT NULL,
  hidden    INTEGER,                 -- when a segment took its place
  bytes     BLOB NOT NULL            -- Signed<Page>
) STRICT;
CREATE INDEX pages_live ON pages (mailbox, time, page, hidden) WHERE hidden IS NULL;
CREATE INDEX pages_place ON pages (mailbox, epoch, number);
CREATE INDEX pages_runs ON pages (mailbox, run_epoch, run_first) WHERE run_epoch IS NOT NULL;
CREATE INDEX pages_hidden ON pages (hidden) WHERE hidden IS NOT NULL;

-- Hints by which a phrase finds its keepers.
CREATE TABLE locators (
  name    BLOB PRIMARY KEY,
  version INTEGER NOT NULL,
  put     INTEGER NOT NULL,          -- when it was put last
  bytes   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX locators_put ON locators (put);

-- One-time prekeys to hand out for kept accounts.
CREATE TABLE one_time_keys (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  mailbox BLOB NOT NULL,
  bytes   BLOB NOT NULL
) STRICT;
CREATE INDEX one_time_keys_mailbox ON one_time_keys (mailbox, id);

-- Seal keys that others agreed with own devices.
CREATE TABLE seal_keys (
  account BLOB NOT NULL,
  name    BLOB NOT NULL,
  contact BLOB NOT NULL,
  key     BLOB NOT NULL,             -- sealed
  expires INTEGER NOT NULL,
  PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX seal_keys_expires ON seal_keys (expires);

CREATE TABLE lines (
  account BLOB NOT NULL,
  line    BLOB NOT NULL,
  contact BLOB NOT NULL,
  unit    TEXT NOT NULL,
  state   BLOB NOT NULL,             -- line::Line
  PRIMARY KEY (account, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX lines_contact ON lines (account, contact);
CREATE TABLE entries (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  account  BLOB NOT NULL,
  line     BLOB NOT NULL,
  hash     BLOB NOT NULL,
  chain    BLOB NOT NULL,
  sequence INTEGER NOT NULL,
  bytes    BLOB NOT NULL,            -- Signed<Entry>
  epoch    INTEGER NOT NULL,         -- of the device that signed it
  volume   INTEGER NOT NULL DEFAULT 0, -- of the archive, and its page
  page     INTEGER NOT NULL DEFAULT 0,
  applied  BLOB,                     -- line::EntryRecord; absent while entries before it are missing
  UNIQUE (account, hash)
) STRICT;
CREATE INDEX entries_place ON entries (account, chain, sequence);
CREATE INDEX entries_page ON entries (account, volume, page);
CREATE INDEX entries_waiting ON entries (account, line) WHERE applied IS NULL;
CREATE TABLE debts (
  account  BLOB NOT NULL,
  line     BLOB NOT NULL,
  debtor   BLOB NOT NULL,
  kind     INTEGER NOT NULL,         -- 0: IOU, 1: lock
  debt     BLOB NOT NULL,            -- the payment id of an IOU, the id of a lock
  contact  BLOB NOT NULL,
  record   BLOB NOT NULL,            -- line::DebtRecord
  reason   TEXT,                     -- why it was declined
  PRIMARY KEY (account, line, debtor, kind, debt)
) STRICT, WITHOUT ROWID;
CREATE INDEX debts_id ON debts (account, debt);

-- What was answered to calls with an idempotency key.
CREATE TABLE idempotency (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  account BLOB NOT NULL,
  scope   TEXT NOT NULL,
  key     TEXT NOT NULL,
  request BLOB NOT NULL,             -- hash of what was asked
  result  BLOB NOT NULL,             -- id of what came of it
  time    INTEGER NOT NULL,          -- rows are cleaned in their order, which is that of their times
  UNIQUE (account, scope, key)
) STRICT;

CREATE TABLE nodes (
  node    BLOB PRIMARY KEY,
  record  BLOB NOT NULL,             -- Signed<NodeRecord>
  signed  INTEGER NOT NULL,
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX nodes_expires ON nodes (expires);
CREATE TABLE blocked_nodes (
  node BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  time    INTEGER NOT NULL,
  account BLOB,
  kind    TEXT NOT NULL,
  data    TEXT NOT NULL
) STRICT;
