//! The guest's kernel log and the engine's own messages, written to the launcher's pipe.
//!
//! The engine hands console output over as log records with a target of its own. A pipe that the
//! launcher does not drain loses lines; the guest never waits for it. Everything from the guest is
//! text to show with care, never to act upon; the first kernel panic line is remembered to explain
//! why a VM ended.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use rustix::fs::OFlags;

/// The target under which the engine logs guest console output.
const GUEST_TARGET: &str = "init_or_kernel";
/// What a Linux kernel prints when it gives up.
const PANIC_MARK: &str = "Kernel panic - not syncing: ";
/// Messages of the engine passed on; a guest can provoke them without end.
const MAX_ENGINE_MESSAGES: u32 = 200;
/// Characters of a panic line kept.
const MAX_PANIC: usize = 200;

/// The first kernel panic seen on a console.
#[derive(Clone, Default)]
pub(crate) struct PanicNote(Arc<Mutex<Option<String>>>);

impl PanicNote {
    /// The panic message, printable and bounded.
    pub(crate) fn message(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn look_at(&self, line: &str) {
        if let Some((_, message)) = line.split_once(PANIC_MARK) {
            let text = message
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_PANIC)
                .collect();
            self.0.lock().get_or_insert(text);
        }
    }
}

/// Writes records to the console pipe.
struct ConsoleLog {
    pipe: File,
    note: PanicNote,
    engine_messages: AtomicU32,
}

/// Sends every record of this process to `pipe`.
///
/// # Errors
/// When the pipe cannot be made non-blocking, or a logger is already there.
pub(crate) fn install(pipe: OwnedFd) -> io::Result<PanicNote> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
    let note = PanicNote::default();
    let logger = ConsoleLog {
        pipe: File::from(pipe),
        note: note.clone(),
        engine_messages: AtomicU32::new(0),
    };
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
    log::set_max_level(LevelFilter::Warn);
    Ok(note)
}

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = if record.target() == GUEST_TARGET {
            let text = record.args().to_string();
            self.note.look_at(&text);
            format!("{}\n", text.trim_end_matches('\r'))
        } else {
            if self.engine_messages.fetch_add(1, Ordering::Relaxed) >= MAX_ENGINE_MESSAGES {
                self.engine_messages
                    .store(MAX_ENGINE_MESSAGES, Ordering::Relaxed);
                return;
            }
            format!(
                "vmm: {} {}: {}
",
                record.level(),
                record.target(),
                record.args()
            )
        };
        // Full or closed: the line is lost, the guest is not held up.
        let _ = (&self.pipe).write(line.as_bytes());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn logger() -> (File, ConsoleLog) {
        let (read_end, write_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        (
            File::from(read_end),
            ConsoleLog {
                pipe: File::from(write_end),
                note: PanicNote::default(),
                engine_messages: AtomicU32::new(0),
            },
        )
    }

    fn record(logger: &ConsoleLog, target: &str, text: &str) {
        logger.log(
            &Record::builder()
                .level(log::Level::Error)
                .target(target)
                .args(format_args!("{text}"))
                .build(),
        );
    }

    #[test]
    fn writes_guest_lines_as_they_are_and_marks_our_own() {
        let (mut pipe, logger) = logger();
        record(&logger, GUEST_TARGET, "[    0.1] hello\r");
        record(&logger, "devices::fs", "odd");
        let mut text = [0; 200];
        let len = pipe.read(&mut text).unwrap();
        assert_eq!(
            &text[..len],
            b"[    0.1] hello\nvmm: ERROR devices::fs: odd\n"
        );
    }

    #[test]
    fn remembers_the_first_panic_without_control_characters() {
        let (_pipe, logger) = logger();
        record(
            &logger,
            "devices",
            "Kernel panic - not syncing: not from the guest",
        );
        record(
            &logger,
            GUEST_TARGET,
            "[ 1.2] Kernel panic - not syncing: Attempted to\x1b[2J kill init!",
        );
        record(&logger, GUEST_TARGET, "Kernel panic - not syncing: second");
        assert_eq!(
            logger.note.message().as_deref(),
            Some("Attempted to[2J kill init!")
        );
    }

    #[test]
    fn stops_repeating_what_a_guest_can_provoke() {
        let (mut pipe, logger) = logger();
        for _ in 0..1000 {
            record(&logger, "devices", "odd");
        }
        record(&logger, GUEST_TARGET, "still here");
        drop(logger);
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), MAX_ENGINE_MESSAGES as usize + 1);
        assert!(text.ends_with("still here\n"));
    }

    #[test]
    fn loses_lines_rather_than_wait() {
        let (_pipe, logger) = logger();
        let long = "x".repeat(4000);
        for _ in 0..100 {
            record(&logger, GUEST_TARGET, &long);
        }
    }
}
