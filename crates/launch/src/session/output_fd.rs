//! The user's standard streams without threads and without O_NONBLOCK.
//!
//! The descriptors are shared with the user's shell, so their flags stay as they are. Each step first asks `poll(2)`,
//! then reads or writes no more than cannot block: a writable pipe takes `PIPE_BUF` bytes. What `epoll` does not know
//! (regular files, `/dev/null`) is always ready.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Linux `PIPE_BUF`.
const SAFE_WRITE: usize = 4096;

/// One direction of a standard stream.
pub(super) enum StreamFd {
    Polled(AsyncFd<OwnedFd>),
    AlwaysReady(OwnedFd),
}

impl StreamFd {
    /// A stream on its own descriptor of `fd`, to be used in this direction only.
    pub(super) fn new(fd: impl AsFd, interest: Interest) -> io::Result<Self> {
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        // The descriptor is owned and stays open as long as it is registered, which is what tokio asks for.
        #[allow(
            deprecated,
            reason = "the replacement is an unsafe function; newer versions of tokio only"
        )]
        match AsyncFd::with_interest(own.try_clone()?, interest) {
            Ok(polled) => Ok(Self::Polled(polled)),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                Ok(Self::AlwaysReady(own))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until there is something to read, then reads at most `buffer`. 0 is the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        if let Self::Polled(fd) = self {
            loop {
                let mut guard = fd.readable().await?;
                if ready(fd.get_ref(), PollFlags::IN)? {
                    break;
                }
                guard.clear_ready();
            }
        }
        Ok(())
    }

    /// Reads what is there after [`StreamFd::readable`].
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(self.fd(), &mut *buffer) {
                Err(Errno::INTR) => {}
                // A terminal that hung up.
                Err(Errno::IO) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    pub(super) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            self.writable().await?;
            match rustix::io::write(self.fd(), &data[..data.len().min(SAFE_WRITE)]) {
                Ok(count) => data = &data[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        if let Self::Polled(fd) = self {
            loop {
                let mut guard = fd.writable().await?;
                if ready(fd.get_ref(), PollFlags::OUT)? {
                    break;
                }
                guard.clear_ready();
            }
        }
        Ok(())
    }

    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Polled(fd) => fd.get_ref(),
            Self::AlwaysReady(fd) => fd,
        }
    }
}

fn ready(fd: &OwnedFd, flags: PollFlags) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut [PollFd::new(fd, flags)], Some(&now)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_full_pipe_does_not_block_the_thread() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = StreamFd::new(&write, Interest::WRITABLE).unwrap();
        drop(write);
        let data = vec![7; 300_000];
        let short = tokio::time::timeout(Duration::from_millis(100), stream.write_all(&data)).await;
        assert!(short.is_err(), "a pipe holds less than that");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::fs::File::from(read).read_to_end(&mut all).unwrap();
            all.len()
        });
        stream.write_all(&data).await.unwrap();
        drop(stream);
        assert!(reader.join().unwrap() > 300_000);
    }

    #[tokio::test]
    async fn reading_waits_for_data_and_sees_the_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = StreamFd::new(&read, Interest::READABLE).unwrap();
        let mut buffer = [0; 10];
        assert!(
            tokio::time::timeout(Duration::from_millis(50), stream.readable())
                .await
                .is_err()
        );
        rustix::io::write(&write, b"ab").unwrap();
        stream.readable().await.unwrap();
        assert_eq!(stream.read(&mut buffer).unwrap(), 2);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), stream.readable())
                .await
                .is_err()
        );
        drop(write);
        stream.readable().await.unwrap();
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    }

    #[tokio::test]
    async fn regular_files_are_always_ready() {
        let mut file = tempfile::tempfile().unwrap();
        let stream = StreamFd::new(&file, Interest::WRITABLE).unwrap();
        stream.write_all(b"hello").await.unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_closed_reader_is_a_broken_pipe() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = StreamFd::new(&write, Interest::WRITABLE).unwrap();
        drop(read);
        assert_eq!(
            stream.write_all(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
