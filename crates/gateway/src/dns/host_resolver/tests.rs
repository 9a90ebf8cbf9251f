use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};

use super::super::test_server::{
    Act, TestServer, Via, a, alias, answer, name, record, response, soa,
};
use super::*;

fn question(text: &str, kind: RecordType) -> Question {
    Question::new(&name(text), kind)
}

/// A resolver that waits for no server longer than half a second.
fn resolver(servers: &[&TestServer], conf: &str) -> HostResolver {
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let resolver = HostResolver::fixed(conf, "", &addresses);
    {
        let mut files = resolver.inner.files.borrow_mut();
        let mut settings = ResolvConf::clone(&files.names.settings);
        settings.timeout = Duration::from_millis(1_000);
        files.names.settings = Rc::new(settings);
    }
    resolver
}

async fn resolve(resolver: &HostResolver, text: &str) -> Result<Vec<String>, DnsFailure> {
    let answer = resolver.resolve(&question(text, RecordType::A)).await?;
    if answer.existence == Existence::NoSuchName {
        return Ok(vec!["no such name".to_owned()]);
    }
    Ok(answer
        .records
        .iter()
        .map(|record| record.data.to_string())
        .collect())
}

/// A server that knows every name by this address.
async fn knows(last: u8) -> TestServer {
    TestServer::start(move |query, _| {
        let owner = query.queries[0].name().to_string();
        vec![Act::Say(answer(query, [record(&owner, 30, a(last))]))]
    })
    .await
}

async fn fails(code: ResponseCode) -> TestServer {
    TestServer::start(move |query, _| vec![Act::Say(failure(query, code))]).await
}

fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut message = response(query);
    message.metadata.response_code = code;
    message
}

async fn silent() -> TestServer {
    TestServer::start(|_, _| Vec::new()).await
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_may_be() {
    let server = knows(1).await;
    let resolver = resolver(&[&server], "");
    for _ in 0..3 {
        assert_eq!(resolve(&resolver, "a.test.").await.unwrap(), ["192.0.2.1"]);
    }
    assert_eq!(server.count(), 1);
    resolve(&resolver, "b.test.").await.unwrap();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn negative_answers_are_kept_too_and_only_with_an_soa() {
    for (with_soa, expected) in [(true, 1), (false, 3)] {
        let server = TestServer::start(move |query, _| {
            let mut message = failure(query, ResponseCode::NXDomain);
            message.add_authorities(with_soa.then(|| soa(60, 60)));
            vec![Act::Say(message)]
        })
        .await;
        let resolver = resolver(&[&server], "");
        for _ in 0..3 {
            assert_eq!(
                resolve(&resolver, "a.test.").await.unwrap(),
                ["no such name"]
            );
        }
        assert_eq!(server.count(), expected);
    }
}

#[tokio::test]
async fn a_failure_goes_on_to_the_next_server_and_is_not_asked_again_at_once() {
    let (first, second) = (fails(ResponseCode::ServFail).await, knows(2).await);
    let resolver_ = resolver(&[&first, &second], "");
    assert_eq!(resolve(&resolver_, "a.test.").await.unwrap(), ["192.0.2.2"]);
    let lonely = resolver(&[&first], "options attempts:2");
    let before = first.count();
    for _ in 0..3 {
        assert_eq!(
            resolve(&lonely, "b.test.").await,
            Err(DnsFailure::ServerFailure)
        );
    }
    assert_eq!(first.count(), before + 2, "two attempts, then remembered");
}

#[tokio::test]
async fn a_dead_server_costs_little_once_and_then_nothing() {
    let (dead, alive) = (silent().await, knows(2).await);
    let resolver = resolver(&[&dead, &alive], "");
    let started = Instant::now();
    for n in 0..4 {
        let answer = resolve(&resolver, &format!("n{n}.test.")).await;
        assert_eq!(answer.unwrap(), ["192.0.2.2"]);
    }
    assert_eq!(dead.count(), 2, "then it is known to be dead");
    assert!(started.elapsed() >= 2 * HEDGE);
    assert!(started.elapsed() < 2 * HEDGE + Duration::from_millis(900));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_costs_nothing() {
    let (gone, alive) = (silent().await, knows(2).await);
    let address = gone.address;
    drop(gone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let resolver = HostResolver::fixed("", "", &[address, alive.address]);
    let started = Instant::now();
    assert_eq!(resolve(&resolver, "a.test.").await.unwrap(), ["192.0.2.2"]);
    assert!(started.elapsed() < HEDGE);
}

#[tokio::test]
async fn no_of_a_later_server_does_not_overtake_an_earlier_one() {
    let slow = TestServer::start(|query, _| {
        let message = answer(query, [record("intranet.test.", 30, a(1))]);
        vec![
            Act::Wait(HEDGE + Duration::from_millis(200)),
            Act::Say(message),
        ]
    })
    .await;
    let public = fails(ResponseCode::NXDomain).await;
    let split = resolver(&[&slow, &public], "");
    assert_eq!(
        resolve(&split, "intranet.test.").await.unwrap(),
        ["192.0.2.1"]
    );
    assert_eq!(public.count(), 1, "it was asked meanwhile");
    let never = silent().await;
    let lonely = resolver(&[&never, &public], "");
    assert_eq!(
        resolve(&lonely, "intranet.test.").await.unwrap(),
        ["no such name"]
    );
}

#[tokio::test]
async fn a_question_that_was_lost_is_asked_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let server = TestServer::start(move |query, _| {
        if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        vec![Act::Say(answer(query, [record("a.test.", 30, a(3))]))]
    })
    .await;
    let resolver = resolver(&[&server], "");
    assert_eq!(resolve(&resolver, "a.test.").await.unwrap(), ["192.0.2.3"]);
}

#[tokio::test]
async fn gives_up_in_bounded_time() {
    let (first, second) = (silent().await, silent().await);
    let resolver = resolver(&[&first, &second], "options attempts:2");
    let started = Instant::now();
    let given_up = resolve(&resolver, "a.test.").await;
    assert_eq!(given_up, Err(DnsFailure::ServerFailure));
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!((first.count(), second.count()), (2, 2));
}

#[tokio::test]
async fn aliases_that_the_server_does_not_follow_are_followed() {
    let server = TestServer::start(|query, _| {
        let owner = query.queries[0].name().to_string();
        let data = match &owner[..] {
            "a.test." => alias("b.test."),
            "b.test." => alias("c.test."),
            "loop.test." => alias("pool.test."),
            "pool.test." => alias("loop.test."),
            _ => a(7),
        };
        vec![Act::Say(answer(query, [record(&owner, 30, data)]))]
    })
    .await;
    let resolver = resolver(&[&server], "");
    let answer = resolve(&resolver, "a.test.").await.unwrap();
    assert_eq!(answer, ["b.test.", "c.test.", "192.0.2.7"]);
    let looped = resolve(&resolver, "loop.test.").await.unwrap();
    assert!(!looped.contains(&"192.0.2.7".to_owned()));
    assert!(server.count() <= 3 + MAX_FOLLOWED + 1);
}

#[tokio::test]
async fn large_answers_come_over_tcp_and_are_kept() {
    let server = TestServer::start(|query, via| {
        let mut message = answer(query, (0..200).map(|n| record("a.test.", 30, a(n))));
        if via == Via::Datagram {
            message = message.truncate();
        }
        vec![Act::Say(message)]
    })
    .await;
    let resolver = resolver(&[&server], "");
    for _ in 0..2 {
        assert_eq!(resolve(&resolver, "a.test.").await.unwrap().len(), 200);
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_no_aaaa_is_obeyed() {
    let server = knows(1).await;
    let conf = "options no-aaaa\n";
    let resolver = HostResolver::fixed(conf, "192.0.2.9 printer.test\n", &[server.address]);
    assert_eq!(
        resolve(&resolver, "Printer.test.").await.unwrap(),
        ["192.0.2.9"]
    );
    let aaaa = resolver
        .resolve(&question("a.test.", RecordType::AAAA))
        .await;
    assert_eq!(aaaa.unwrap(), Answer::empty(Existence::Exists));
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn other_servers_after_a_change_of_network_and_nothing_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (conf, hosts) = (
        directory.path().join("resolv.conf"),
        directory.path().join("hosts"),
    );
    fs_err::write(
        &conf,
        "nameserver 192.0.2.1\nsearch corp.test Lan\noptions ndots:3\n",
    )
    .unwrap();
    let resolver = HostResolver::watching(&conf, &hosts);
    let rule = resolver.search_rule();
    assert_eq!(
        (rule.domains.join(" "), rule.ndots),
        ("corp.test lan".to_owned(), 3)
    );
    let asked = question("a.test.", RecordType::A);
    let known = Answer::of_addresses(
        &asked,
        [IpAddr::from([192, 0, 2, 1])],
        Duration::from_secs(90),
    );
    resolver
        .inner
        .cache
        .borrow_mut()
        .store(&asked, &Ok(known), Instant::now());
    assert_eq!(resolve(&resolver, "a.test.").await.unwrap(), ["192.0.2.1"]);
    fs_err::write(&hosts, "192.0.2.77 a.test\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(resolve(&resolver, "a.test.").await.unwrap(), ["192.0.2.77"]);
    fs_err::write(&hosts, "").unwrap();
    fs_err::write(&conf, "search other.test\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    drop(resolver.inner.names(Instant::now()));
    assert!(
        resolver
            .inner
            .cache
            .borrow_mut()
            .find(&asked, Instant::now())
            .is_none()
    );
    assert_eq!(resolver.search_rule().domains, ["other.test"]);
}

#[tokio::test]
async fn many_questions_are_bounded_in_flight_and_by_pace() {
    let server = silent().await;
    let resolver = Rc::new(resolver(&[&server], "options attempts:1"));
    let asked = (0..MAX_IN_FLIGHT + 50).map(|n| {
        let resolver = Rc::clone(&resolver);
        async move { resolve(&resolver, &format!("n{n}.test.")).await }
    });
    let results: Vec<_> = asked.collect::<FuturesUnordered<_>>().collect().await;
    let refused = results
        .iter()
        .filter(|result| **result == Err(DnsFailure::Refused));
    assert_eq!(refused.count(), 50);
    assert_eq!(resolver.inner.in_flight.get(), 0);
    let dropped = resolver.resolve(&question("x.test.", RecordType::A));
    drop(tokio::time::timeout(Duration::from_millis(20), dropped).await);
    assert_eq!(
        resolver.inner.in_flight.get(),
        0,
        "given back when nobody waits"
    );
}

#[tokio::test]
async fn the_same_question_is_in_flight_once() {
    let server = TestServer::start(|query, _| {
        let message = answer(query, [record("a.test.", 0, a(4))]);
        vec![Act::Wait(Duration::from_millis(100)), Act::Say(message)]
    })
    .await;
    let resolver = resolver(&[&server], "");
    let given_up = resolver.resolve(&question("a.test.", RecordType::A));
    let (_, first, second) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(20), given_up),
        resolve(&resolver, "a.test."),
        resolve(&resolver, "A.test."),
    );
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (vec!["192.0.2.4".to_owned()], vec!["192.0.2.4".to_owned()])
    );
    assert_eq!(
        server.count(),
        1,
        "the first has given up, the others have not"
    );
    resolve(&resolver, "a.test.").await.unwrap();
    assert_eq!(server.count(), 2, "its time to live is zero");
}
