//! The HTTP API of a real daemon: the contract, every refusal, and the event stream.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::io::{BufRead, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use support::{Answer, Daemon, command, friends, pumasi, text, wait_for};

const KEY: &str = "Idempotency-Key: k-1";

fn krw(amount: &str) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

#[test]
fn two_people_meet_write_and_pay_over_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, bora) = friends(dir.path());

    let node = hana.get("/api/v1/node");
    assert!(node["id"].as_str().unwrap().starts_with("pn1"));
    assert_eq!(node["building"], "hana");
    let account = hana.get("/api/v1/accounts")["items"][0].clone();
    assert_eq!(hana.get("/api/v1/accounts/hana"), account);
    assert_eq!(
        hana.get(&format!(
            "/api/v1/accounts/{}",
            account["id"].as_str().unwrap()
        )),
        account
    );

    let path = "/api/v1/contacts/bora";
    let contact = hana.get(path);
    assert_eq!(hana.get("/api/v1/contacts")["items"], json!([contact]));
    let body = json!({ "fingerprint": contact["fingerprint"] });
    assert_eq!(
        hana.post(&format!("{path}/verify"), &body, 200)["verified"],
        true
    );
    let blocked = hana.post(&format!("{path}/block"), &json!({ "blocked": true }), 200);
    assert_eq!(blocked["blocked"], true);
    hana.post(&format!("{path}/block"), &json!({ "blocked": false }), 200);

    let text = json!({ "text": "안녕\n\"하나\"" });
    let sent = hana.post("/api/v1/chats/bora/messages", &text, 202);
    assert_eq!(sent["direction"], "out");
    let id = sent["id"].as_str().unwrap();
    let there = wait_for("the message to arrive", || {
        let answer = bora.http("GET", &format!("/api/v1/messages/{id}"), None, &[]);
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(there["text"], text["text"]);
    assert_eq!(bora.get("/api/v1/chats")["items"][0]["unread"], 1);
    assert_eq!(
        bora.post("/api/v1/chats/hana/read", &json!({}), 200),
        json!({ "read": 1 })
    );
    wait_for("the receipt for reading", || {
        (hana.get(&format!("/api/v1/messages/{id}"))["state"] == "read").then_some(())
    });

    let body = json!({ "with": "hana", "limit": krw("50000") });
    assert_eq!(
        bora.post("/api/v1/credit-lines", &body, 200)["limit_given"],
        "50000"
    );
    wait_for("the limit to arrive", || {
        let line = hana.http("GET", "/api/v1/credit-lines/bora/KRW", None, &[]);
        (line.status == 200 && line.json()["available"] == "50000").then_some(())
    });
    let body = json!({ "to": "bora", "amount": krw("12000"), "note": "점심" });
    let paid = hana
        .http("POST", "/api/v1/payments", Some(&body), &[KEY])
        .expect(202);
    let path = format!("/api/v1/payments/{}", paid["id"].as_str().unwrap());
    wait_for("the payment to be accepted", || {
        (hana.get(&path)["state"] == "accepted").then_some(())
    });
    assert_eq!(
        bora.get("/api/v1/credit-lines/hana/KRW")["balance"],
        "12000"
    );
    assert_eq!(
        hana.get("/api/v1/credit-lines")["items"][0]["balance"],
        "-12000"
    );

    // The same again, with the same key: the same payment, once.
    let again = hana
        .http("POST", "/api/v1/payments", Some(&body), &[KEY])
        .expect(202);
    assert_eq!(again["id"], paid["id"]);
    assert_eq!(
        hana.get("/api/v1/payments")["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let other = json!({ "to": "bora", "amount": krw("12001"), "note": "점심" });
    hana.http("POST", "/api/v1/payments", Some(&other), &[KEY])
        .problem(422, "idempotency_key_reused");
    let much = json!({ "to": "bora", "amount": krw("38001") });
    let problem = hana
        .http(
            "POST",
            "/api/v1/payments",
            Some(&much),
            &["Idempotency-Key: k-2"],
        )
        .problem(409, "credit_limit_exceeded");
    assert!(
        problem["available"].to_string().contains("38000"),
        "{problem}"
    );

    let keepers = hana.get("/api/v1/keepers");
    assert_eq!(keepers["account"], account["id"]);
    assert!(hana.get("/api/v1/keeping")["items"].is_array());
    let peers = hana.get("/api/v1/peers")["items"].clone();
    assert!(
        peers
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["connected"] == true),
        "{peers}"
    );
    assert_eq!(
        hana.get("/api/v1/node/status")["accounts"][0]["balances"]["KRW"],
        "-12000"
    );
    assert_eq!(hana.get("/version")["api"], "v1");
    assert_eq!(hana.get("/livez"), json!({ "status": "ok" }));
}

#[test]
fn pages_lead_to_every_message_once_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    let path = "/api/v1/chats/bora/messages";
    let sent: Vec<Value> = (0..5)
        .map(|n| hana.post(path, &json!({ "text": n.to_string() }), 202)["id"].clone())
        .collect();
    let ids = |page: &Value| -> Vec<Value> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].clone())
            .collect()
    };
    let newest = hana.get(&format!("{path}?limit=2"));
    assert_eq!(ids(&newest), sent[3..]);
    let before = hana.get(&format!(
        "{path}?limit=2&before={}",
        newest["next"].as_str().unwrap()
    ));
    assert_eq!(ids(&before), sent[1..3]);
    let after = hana.get(&format!(
        "{path}?limit=3&after={}",
        sent[0].as_str().unwrap()
    ));
    assert_eq!(ids(&after), sent[1..4]);
    let last = hana.get(&format!(
        "{path}?limit=3&after={}",
        after["next"].as_str().unwrap()
    ));
    assert_eq!(ids(&last), sent[4..]);
    assert_eq!(last["next"], Value::Null);
    let both = format!("{path}?before=x&after=y");
    hana.http("GET", &both, None, &[]).problem(400, "invalid");
}

#[test]
fn what_is_not_well_formed_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    let check = |answer: Answer, status: u16, code: &str, pointer: Option<&str>| {
        let problem = answer.problem(status, code);
        let named = problem
            .get("errors")
            .map(|errors| errors[0]["pointer"].as_str().unwrap());
        assert_eq!(named, pointer, "{problem}");
    };
    let text = |body: Value| hana.http("POST", "/api/v1/chats/bora/messages", Some(&body), &[]);
    let long = "a".repeat(64 * 1024 + 1);
    check(text(json!({ "text": long })), 413, "too_large", None);
    check(text(json!({ "text": "" })), 400, "invalid", None);
    check(text(json!({ "text": 5 })), 400, "invalid", Some("#/text"));
    check(text(json!({})), 400, "invalid", Some("#/text"));
    check(
        text(json!({ "text": "x", "txet": 1 })),
        400,
        "invalid",
        Some("#/txet"),
    );
    check(text(json!(["x"])), 400, "invalid", Some("#"));

    let (amount, currency) = (Some("#/amount/amount"), Some("#/amount/currency"));
    for (money, pointer) in [
        (krw("0"), amount),
        (krw("-5"), amount),
        (krw("1.5"), amount),
        (krw("18446744073709551616"), amount),
        (json!({ "amount": 15000, "currency": "KRW" }), amount),
        (json!({ "amount": 1.5, "currency": "KRW" }), amount),
        (json!({ "amount": "5", "currency": "won" }), currency),
        (json!("5 KRW"), Some("#/amount")),
        (Value::Null, Some("#/amount")),
    ] {
        let body = json!({ "to": "bora", "amount": money });
        let answer = hana.http("POST", "/api/v1/payments", Some(&body), &[KEY]);
        check(answer, 400, "invalid", pointer);
    }
    for (path, status, code) in [
        ("/api/v1/contacts?account=nobody", 404, "not_found"),
        ("/api/v1/contacts?acount=hana", 400, "invalid"),
        ("/api/v1/payments?limit=x", 400, "invalid"),
        ("/api/v1/payments?limit=1&limit=2", 400, "invalid"),
        ("/api/v1/messages/msg1x", 400, "invalid"),
        ("/api/v1/contacts/%FF", 400, "invalid"),
        ("/api/v1/events?since=x", 400, "invalid"),
        ("/api/v1/events?since=99999999", 400, "invalid"),
        ("/api/v1/nothing", 404, "not_found"),
        ("/", 404, "not_found"),
    ] {
        check(hana.http("GET", path, None, &[]), status, code, None);
    }
    let post = |path: &str, body: Value| hana.http("POST", path, Some(&body), &[]);
    check(
        post("/api/v1/chats/nobody/messages", json!({ "text": "x" })),
        404,
        "not_found",
        None,
    );
    check(
        post("/api/v1/peers", json!({ "address": "nonsense" })),
        400,
        "invalid",
        None,
    );
    let own = hana.post("/api/v1/invitations", &json!({}), 201)["link"].clone();
    let answer = hana.http(
        "POST",
        "/api/v1/contacts",
        Some(&json!({ "uri": own })),
        &[],
    );
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("your own"),
        "{answer:?}"
    );
}

#[test]
fn several_accounts_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::with_account(&dir.path().join("d"), "hana");
    let made = node.post("/api/v1/accounts", &json!({ "name": "shop" }), 201);
    assert_eq!(made["phrase"].as_array().unwrap().len(), 24);
    node.http("GET", "/api/v1/contacts", None, &[])
        .problem(400, "ambiguous");
    node.http("GET", "/api/v1/contacts?account=shop", None, &[])
        .expect(200);
    node.http(
        "POST",
        "/api/v1/accounts",
        Some(&json!({ "name": "shop" })),
        &[],
    )
    .problem(409, "exists");
    let body = json!({ "name": "가게" });
    assert_eq!(
        node.http("PATCH", "/api/v1/accounts/shop", Some(&body), &[])
            .expect(200)["name"],
        "가게"
    );
}

#[test]
fn a_key_is_needed_to_pay_and_must_be_visible_ascii() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    let body = json!({ "to": "bora", "amount": krw("5") });
    hana.http("POST", "/api/v1/payments", Some(&body), &[])
        .problem(400, "idempotency_key_missing");
    for bad in ["", " ", "a b", "열쇠", &"k".repeat(256)] {
        let header = format!("Idempotency-Key: {bad}");
        hana.http("POST", "/api/v1/payments", Some(&body), &[&header])
            .problem(400, "invalid");
    }
    let text = json!({ "text": "once" });
    let send = |text: &Value| hana.http("POST", "/api/v1/chats/bora/messages", Some(text), &[KEY]);
    let first = send(&text).expect(202);
    assert_eq!(send(&text).expect(202)["id"], first["id"]);
    send(&json!({ "text": "other" })).problem(422, "idempotency_key_reused");
}

#[test]
fn over_tcp_only_the_right_host_origin_and_token_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::with_account(&dir.path().join("d"), "hana");
    let host = format!("Host: {}", node.tcp.as_ref().unwrap());
    let token = format!("Authorization: Bearer {}", node.token());
    let ask = |headers: &[&str]| {
        let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
        node.raw_tcp("GET", "/api/v1/node", &headers, b"")
    };
    ask(&[&host, &token]).expect(200);
    let missing = ask(&[&host]);
    missing.problem(401, "not_permitted");
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    ask(&[&host, "Authorization: Bearer 0000"]).problem(401, "not_permitted");
    ask(&[&host, "Authorization: Basic aGFuYQ=="]).problem(401, "not_permitted");
    ask(&["Host: evil.example", &token]).problem(403, "not_permitted");
    ask(&[&host, &token, "Origin: http://evil.example"]).problem(403, "not_permitted");
    let own = format!("Origin: http://{}", node.tcp.as_ref().unwrap());
    ask(&[&host, &token, &own]).expect(200);
    for open in ["/livez", "/readyz", "/version"] {
        node.raw_tcp("GET", open, std::slice::from_ref(&host), b"")
            .expect(200);
    }
    let mode = |name: &str| {
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(node.dir.join(name)).unwrap())
    };
    for private in ["api.sock", "api.token", "identity.key", "node.db", "lock"] {
        assert_eq!(mode(private) & 0o777, 0o600, "{private}");
    }
}

#[test]
fn bodies_must_be_json_say_so_and_be_of_bounded_length() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::with_account(&dir.path().join("d"), "hana");
    let path = "/api/v1/contacts";
    let raw = |headers: &[&str], body: &[u8]| {
        let mut all = vec!["Host: localhost".to_owned()];
        all.extend(headers.iter().map(|&header| header.to_owned()));
        node.raw("POST", path, &all, body)
    };
    let json = "Content-Type: application/json";
    raw(&["Content-Type: text/plain"], b"{\"uri\":\"x\"}").problem(415, "invalid");
    raw(&[], b"{\"uri\":\"x\"}").problem(415, "invalid");
    raw(&["Content-Type: application/json; charset=utf-8"], b"{").problem(400, "invalid");
    raw(&[json], b"\xff\xfe").problem(400, "invalid");
    raw(&[json], &[b'['; 100_000]).problem(400, "invalid");
    raw(&[json], &vec![b' '; 256 * 1024 + 1]).problem(413, "too_large");
    let chunked = [
        b"50000\r\n".as_slice(),
        &vec![b' '; 0x50000],
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let headers = [
        "Host: localhost",
        json,
        "Transfer-Encoding: chunked",
        "Content-Length: 0",
    ];
    let refused = node.raw("POST", path, &headers.map(str::to_owned), &chunked);
    assert!(matches!(refused.status, 400 | 413), "{refused:?}");
    let wrong = node.http("DELETE", "/api/v1/node", None, &[]);
    wrong.problem(405, "invalid");
    assert!(wrong.header("allow").unwrap().contains("GET"), "{wrong:?}");
    let long = format!("X-Long: {}", "x".repeat(17 * 1024));
    let refused = node.raw("GET", "/livez", &["Host: localhost".to_owned(), long], b"");
    assert_eq!(refused.status, 431);
}

/// Reads server-sent events until `count` have come; gives (id, event, data).
fn read_sse(stream: &mut impl BufRead, count: usize) -> Vec<(u64, String, Value)> {
    let mut events = Vec::new();
    let (mut id, mut kind, mut line) = (0, String::new(), String::new());
    while events.len() < count {
        line.clear();
        assert!(
            stream.read_line(&mut line).unwrap() > 0,
            "the stream ended early"
        );
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.parse().unwrap();
        } else if let Some(text) = line.strip_prefix("event: ") {
            kind = text.to_owned();
        } else if let Some(text) = line.strip_prefix("data: ") {
            events.push((id, kind.clone(), serde_json::from_str(text).unwrap()));
        }
    }
    events
}

#[test]
fn a_stream_resumes_without_holes_or_doubles_and_ends_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, bora) = friends(dir.path());
    let sse = "Accept: text/event-stream";
    let start = hana.get("/api/v1/events?poll=1&since=now")["last"]
        .as_u64()
        .unwrap();
    for n in 0..3 {
        let body = json!({ "text": n.to_string() });
        hana.post("/api/v1/chats/bora/messages", &body, 202);
    }
    let path = format!("/api/v1/events?since={start}&types=message.queued");
    let mut stream = hana.stream(&path, &[sse]);
    let first = read_sse(&mut stream, 2);
    drop(stream);
    // A browser asks for the same address again and says what it saw last.
    let mut stream = hana.stream(&path, &[sse, &format!("Last-Event-ID: {}", first[1].0)]);
    let third = read_sse(&mut stream, 1);
    let texts: Vec<&Value> = first
        .iter()
        .chain(&third)
        .map(|(_, _, event)| &event["data"]["text"])
        .collect();
    assert_eq!(texts, [&json!("0"), &json!("1"), &json!("2")]);
    assert!(first.iter().all(|(id, kind, event)| {
        kind == "message.queued" && event["seq"] == *id && event["id"] == format!("evt_{id}")
    }));

    wait_for("the texts to arrive", || {
        let page = bora.get("/api/v1/chats/hana/messages");
        (page["items"].as_array().unwrap().len() == 3).then_some(())
    });

    // Live: what happens after the stream was opened arrives on it.
    let mut live = bora.stream("/api/v1/events?since=now&types=message.received", &[sse]);
    let mut retry = String::new();
    while !retry.starts_with("retry:") {
        retry.clear();
        live.read_line(&mut retry).unwrap();
    }
    let body = json!({ "text": "live" });
    hana.post("/api/v1/chats/bora/messages", &body, 202);
    let texts = read_sse(&mut live, 1);
    assert_eq!(texts[0].2["data"]["text"], "live");

    // Newline JSON, from the beginning: every number once.
    let last = hana.get("/api/v1/events?poll=1&since=now")["last"]
        .as_u64()
        .unwrap();
    let mut lines = hana
        .stream("/api/v1/events", &[])
        .lines()
        .map(Result::unwrap);
    let numbers: Vec<u64> = lines
        .by_ref()
        .filter(|line| line.starts_with('{'))
        .map(|line| {
            serde_json::from_str::<Value>(&line).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .take(usize::try_from(last).unwrap())
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());

    let status = bora.end(rustix::process::Signal::TERM);
    assert!(status.success(), "{status:?}");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut live, &mut rest).unwrap();
    assert!(
        rest.ends_with("0\r\n\r\n"),
        "the stream ended in the middle: {rest:?}"
    );
}

#[test]
fn polling_gives_one_page_and_where_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    let mut since = 0;
    let mut seen = Vec::new();
    loop {
        let page = hana.get(&format!("/api/v1/events?poll=1&limit=2&since={since}"));
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|event| event["seq"].as_u64().unwrap()));
        since = page["last"].as_u64().unwrap();
        if items.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (1..=since).collect::<Vec<_>>());
    let contacts = hana.get("/api/v1/events?poll=1&types=contact.*");
    let items = contacts["items"].as_array().unwrap();
    assert!(!items.is_empty());
    assert!(
        items
            .iter()
            .all(|event| event["type"].as_str().unwrap().starts_with("contact."))
    );
}

#[test]
fn one_connection_too_many_is_told_so_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::with_account(&dir.path().join("d"), "hana");
    let streams: Vec<_> = (0..32)
        .map(|_| {
            let mut stream = node.stream("/api/v1/events", &[]);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert!(line.contains("200"), "{line}");
            stream
        })
        .collect();
    node.http("GET", "/api/v1/events", None, &[])
        .problem(429, "busy");
    node.get("/readyz");
    let idle: Vec<_> = (0..32)
        .map(|_| {
            let mut stream = UnixStream::connect(&node.socket).unwrap();
            stream.write_all(b"GET").unwrap();
            stream
        })
        .collect();
    wait_for("the refusal", || {
        let answer = node.raw("GET", "/livez", &["Host: localhost".to_owned()], b"");
        (answer.status == 503 && answer.json()["code"] == "busy").then_some(())
    });
    drop((streams, idle));
    wait_for("room", || {
        let answer = node.raw("GET", "/livez", &["Host: localhost".to_owned()], b"");
        (answer.status == 200).then_some(())
    });
}

#[test]
fn a_directory_has_one_daemon_and_a_dead_ones_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let node = Daemon::with_account(&path, "hana");
    let second = pumasi(&path, &["run"]);
    assert_eq!(second.status.code(), Some(3));
    assert!(text(&second).1.contains("another daemon"), "{second:?}");
    node.get("/readyz");
    node.end(rustix::process::Signal::KILL);
    assert!(path.join("api.sock").exists());
    let node = Daemon::start(&path, &[]);
    assert_eq!(node.get("/api/v1/accounts")["items"][0]["name"], "hana");
    assert!(node.end(rustix::process::Signal::TERM).success());
    assert!(!path.join("api.sock").exists());
}

#[test]
fn a_place_that_cannot_be_written_or_listened_on_is_named() {
    let proc = std::path::Path::new("/proc");
    let output = command(&proc.join("pumasi"))
        .args(["run"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).1.contains("/proc/pumasi"), "{output:?}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let long = format!("/tmp/{}", "x".repeat(120));
    for (args, words) in [
        (["--api-socket", &long], "--api-socket"),
        (["--api-listen", "0.0.0.0:4041"], "not loopback"),
        (["--listen", "0.0.0.0:4040"], "not a multiaddress"),
    ] {
        let mut all = vec!["run", "--mdns", "false"];
        if args[0] != "--listen" {
            all.extend(["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
        }
        all.extend(args);
        let output = pumasi(&path, &all);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output).1.contains(words), "{output:?}");
    }
}
