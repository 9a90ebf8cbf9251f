//! The gateway against a simulated guest: a smoltcp machine with its own Ethernet, on the other end of a real socket
//! pair, which finishes checksums and segments as a kernel would and verifies everything.

mod by_hand;
mod connections;
mod datagrams;
pub(crate) mod guest;
mod guest_options;
mod handlers;
mod hostile;
mod names;
mod offload;
pub(crate) mod refusals;
mod replay;
mod rest;
mod stream_link;
mod transfers;
mod weather;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::config::GatewayConfig;
use crate::gateway::Gateway;
use guest::{Guest, GuestOptions};
use handlers::TestHandler;

/// Runs `test` with a guest on a running gateway.
async fn with_guest<F: Future<Output = ()>>(
    options: GuestOptions,
    test: impl FnOnce(Rc<Guest>, Rc<TestHandler>) -> F,
) {
    with_link(|far, handler| test(Guest::start(far, options), handler)).await;
}

/// Runs `test` with the guest's end of the link of a running gateway.
async fn with_link<F: Future<Output = ()>>(test: impl FnOnce(OwnedFd, Rc<TestHandler>) -> F) {
    let config = GatewayConfig {
        overridden_names: vec!["Override.test".to_owned()],
        ..GatewayConfig::default()
    };
    with_link_on(config, link(), test).await;
}

/// As [`with_guest`], with this link: the gateway's end, the guest's.
async fn with_guest_on<F: Future<Output = ()>>(
    config: GatewayConfig,
    ends: (OwnedFd, OwnedFd),
    options: GuestOptions,
    test: impl FnOnce(Rc<Guest>, Rc<TestHandler>) -> F,
) {
    with_link_on(config, ends, |far, handler| {
        test(Guest::start(far, options), handler)
    })
    .await;
}

async fn with_link_on<F: Future<Output = ()>>(
    config: GatewayConfig,
    (near, far): (OwnedFd, OwnedFd),
    test: impl FnOnce(OwnedFd, Rc<TestHandler>) -> F,
) {
    let handler = Rc::new(TestHandler::default());
    let gateway = Gateway::new(
        config,
        near,
        Rc::clone(&handler) as Rc<dyn crate::FlowHandler>,
        Rc::clone(&handler) as Rc<dyn crate::Resolver>,
    )
    .unwrap();
    let local = LocalSet::new();
    local
        .run_until(async move {
            let running = tokio::task::spawn_local(gateway.run());
            tokio::time::timeout(LIMIT, test(far, handler))
                .await
                .expect("the test does not stall");
            assert!(!running.is_finished(), "the gateway is still there");
            running.abort();
        })
        .await;
}

fn link() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// No test takes longer, in its own time.
const LIMIT: Duration = Duration::from_secs(7_200);
