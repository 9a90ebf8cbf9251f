//! Runs hyper's helper futures on the caller's `LocalSet`. They end with the connection they belong to.

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Spawns on the current `LocalSet`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        drop(spawn_local(future));
    }
}
