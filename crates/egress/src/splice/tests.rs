//! Copies under any chunking, with ends in any order.

use agent_vm_secret::Placeholder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// Sends `chunks` from the guest through pipes of `room` bytes; answers what arrived and how it ended.
fn send_up(
    chunks: &[&[u8]],
    room: usize,
    scanner: Option<&PlaceholderScanner>,
) -> (Vec<u8>, SpliceEnd) {
    run(async {
        let (mut guest, mut guest_end) = tokio::io::duplex(room);
        let (mut upstream, mut upstream_end) = tokio::io::duplex(room);
        let traffic = Rc::default();
        let copy = async move {
            let ended = splice(
                &mut guest_end,
                &mut upstream_end,
                Early::default(),
                &traffic,
                scanner,
            )
            .await;
            upstream_end.shutdown().await.unwrap();
            ended
        };
        let send = async {
            for chunk in chunks {
                if guest.write_all(chunk).await.is_err() {
                    break;
                }
            }
            let _closed = guest.shutdown().await;
        };
        let receive = async {
            let mut arrived = Vec::new();
            upstream.read_to_end(&mut arrived).await.unwrap();
            upstream.shutdown().await.unwrap();
            arrived
        };
        let (ended, arrived) = tokio::select! {
            ended = async { tokio::join!(copy, send, receive) } => (ended.0, ended.2),
            () = tokio::time::sleep(std::time::Duration::from_secs(10)) => panic!("the copy hangs"),
        };
        (arrived, ended)
    })
}

#[test]
fn early_bytes_go_first_and_everything_is_counted() {
    run(async {
        let (mut guest, mut guest_end) = tokio::io::duplex(8);
        let (mut upstream, mut upstream_end) = tokio::io::duplex(8);
        let traffic: Rc<Traffic> = Rc::default();
        let early = Early {
            to_upstream: b"first,".to_vec(),
            to_guest: b"hello,".to_vec(),
        };
        let copy = splice(&mut guest_end, &mut upstream_end, early, &traffic, None);
        let talk = async {
            guest.write_all(b"second").await.unwrap();
            guest.shutdown().await.unwrap();
            let mut up = String::new();
            upstream.read_to_string(&mut up).await.unwrap();
            upstream.write_all(b"bye").await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut down = String::new();
            guest.read_to_string(&mut down).await.unwrap();
            (up, down)
        };
        let (ended, (up, down)) = tokio::join!(copy, talk);
        assert!(matches!(ended, SpliceEnd::Finished));
        assert_eq!((up.as_str(), down.as_str()), ("first,second", "hello,bye"));
        assert_eq!((traffic.up.get(), traffic.down.get()), (12, 9));
    });
}

#[test]
fn a_side_that_breaks_off_ends_both() {
    run(async {
        let (guest, mut guest_end) = tokio::io::duplex(8);
        let (upstream, mut upstream_end) = tokio::io::duplex(8);
        let early = Early {
            to_upstream: vec![0; 64],
            to_guest: Vec::new(),
        };
        drop(upstream);
        let traffic = Rc::default();
        let ended = splice(&mut guest_end, &mut upstream_end, early, &traffic, None).await;
        assert!(matches!(ended, SpliceEnd::Broken));
        drop(guest);
    });
}

#[test]
fn bodies_beyond_the_searched_part_pass() {
    let placeholder = Placeholder::mint("x-").unwrap();
    let scanner = PlaceholderScanner::new([&placeholder]);
    let padding = vec![b'.'; SCANNED_BYTES];
    let (arrived, ended) = send_up(
        &[&padding, placeholder.as_str().as_bytes()],
        4096,
        Some(&scanner),
    );
    assert!(matches!(ended, SpliceEnd::Finished));
    assert!(arrived.ends_with(placeholder.as_str().as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn bytes_arrive_whole_under_any_chunking(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..12),
        room in 1_usize..200,
    ) {
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let (arrived, ended) = send_up(&chunks, room, None);
        prop_assert!(matches!(ended, SpliceEnd::Finished));
        prop_assert_eq!(arrived, chunks.concat());
    }

    #[test]
    fn a_whole_placeholder_never_arrives(before in "[ -~]{0,200}", cut in 1_usize..40, room in 1_usize..200) {
        let placeholder = Placeholder::mint("x-").unwrap();
        let scanner = PlaceholderScanner::new([&placeholder]);
        let text = format!("{before}{placeholder} and more");
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
        let (arrived, ended) = send_up(&chunks, room, Some(&scanner));
        prop_assert!(matches!(ended, SpliceEnd::Placeholder));
        prop_assert_eq!(scanner.find(&arrived), None);
    }
}
