use std::net::IpAddr;

use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, RecordType};

use super::super::test_server::{a, name, record, soa};
use super::*;

fn question(text: &str) -> Question {
    Question::new(&name(text), RecordType::A)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn answers_live_as_long_as_their_shortest_record_and_count_down() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let records = vec![record("a.test.", 60, a(1)), record("a.test.", 30, a(2))];
    cache.store(&question("a.test."), &Ok(Answer::of(records)), now);
    let later = cache
        .find(&question("A.TEST."), now + seconds(10))
        .unwrap()
        .unwrap();
    assert_eq!(
        later
            .records
            .iter()
            .map(|record| record.ttl)
            .collect::<Vec<_>>(),
        [50, 20]
    );
    assert!(
        cache
            .find(&question("a.test."), now + seconds(30))
            .is_none()
    );
    assert_eq!(
        (cache.entries.len(), cache.by_age.len(), cache.bytes),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn types_and_names_are_told_apart() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.store(
        &question("a.test."),
        &Ok(Answer::of(vec![record("a.test.", 60, a(1))])),
        now,
    );
    assert!(cache.find(&question("b.test."), now).is_none());
    let other = Question::new(&name("a.test."), RecordType::AAAA);
    assert!(cache.find(&other, now).is_none());
}

#[tokio::test(start_paused = true)]
async fn negative_answers_live_as_their_soa_says_and_without_one_not_at_all() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let mut answer = Answer::no_such_name();
    cache.store(&question("a.test."), &Ok(answer.clone()), now);
    assert!(cache.find(&question("a.test."), now).is_none());
    answer.soa = Some(Box::new(soa(600, 5)));
    cache.store(&question("a.test."), &Ok(answer), now);
    assert!(cache.find(&question("a.test."), now + seconds(4)).is_some());
    assert!(cache.find(&question("a.test."), now + seconds(5)).is_none());
}

#[tokio::test(start_paused = true)]
async fn failures_are_repeated_for_a_second() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.store(&question("a.test."), &Err(DnsFailure::ServerFailure), now);
    let found = cache.find(&question("a.test."), now + Duration::from_millis(999));
    assert_eq!(found, Some(Err(DnsFailure::ServerFailure)));
    assert!(cache.find(&question("a.test."), now + seconds(1)).is_none());
}

#[tokio::test(start_paused = true)]
async fn it_stays_within_its_bounds_and_keeps_what_was_stored_last() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let number = |n: usize| question(&format!("n{n}.test."));
    for n in 0..2 * MAX_CACHED_ANSWERS {
        let asked = number(n);
        let address = IpAddr::from([192, 0, 2, 1]);
        cache.store(
            &asked,
            &Ok(Answer::of_addresses(&asked, [address], seconds(60))),
            now,
        );
        assert!(cache.bytes <= MAX_CACHE_BYTES);
    }
    assert_eq!(cache.entries.len(), MAX_CACHED_ANSWERS);
    assert!(cache.find(&number(0), now).is_none());
    assert!(
        cache
            .find(&number(2 * MAX_CACHED_ANSWERS - 1), now)
            .is_some()
    );
    let text_question = |n: usize| Question::new(&name(&format!("t{n}.test.")), RecordType::TXT);
    let text = |strings| RData::TXT(TXT::new(vec!["x".repeat(255); strings]));
    for n in 0..1_000 {
        let answer = Answer::of(vec![record("a.test.", 60, text(100))]);
        cache.store(&text_question(n), &Ok(answer), now);
        assert!(cache.bytes <= MAX_CACHE_BYTES);
    }
    assert!(cache.entries.len() < 200 && cache.entries.len() == cache.by_age.len());
    let huge = Answer::of(vec![record("a.test.", 60, text(255))]);
    cache.store(&text_question(5), &Ok(huge), now);
    assert!(
        cache.find(&text_question(5), now).is_none(),
        "larger than any answer that is kept"
    );
}
