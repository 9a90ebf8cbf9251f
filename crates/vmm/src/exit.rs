//! Why a VM ended: what the child reports and what its parent makes of it.
//!
//! The child writes at most one [`Report`] to its status pipe before it ends. A child that ends
//! without one was killed, or died in a way it could not describe; that is never success.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

/// Bytes of a report.
const MAX_REPORT: u64 = 16 * 1024;
/// Characters of one text in a report.
const MAX_TEXT: usize = 2000;
/// The signal a forbidden system call ends with.
const SIGSYS: i32 = 31;

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// Why.
    pub reason: ExitReason,
}

/// Why a VM ended. Only [`ExitReason::PoweredOff`] is an orderly end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    /// The guest announced a code through its root file system and stopped.
    #[error("the guest powered off")]
    PoweredOff {
        /// The code it announced.
        code: i32,
    },
    /// The guest stopped without announcing anything: its first program rebooted, or the
    /// processor was reset.
    #[error("the guest stopped unexpectedly")]
    Reset,
    /// The guest's kernel gave up. The text is the guest's own; show it with care.
    #[error("the guest kernel panicked: {message}")]
    Panicked {
        /// The first line of the panic, printable, at most 200 characters.
        message: String,
    },
    /// A virtual processor could not go on. On a machine without usable KVM this is the usual end.
    #[error("a virtual processor stopped in an unrecoverable state")]
    ProcessorFault,
    /// The child could not build the VM.
    #[error("the virtual machine could not be set up: {detail}")]
    SetupFailed {
        /// What went wrong.
        detail: String,
    },
    /// The child refused to run unconfined.
    #[error("this system cannot confine the virtual machine: {detail}")]
    ConfinementUnavailable {
        /// What is missing.
        detail: String,
    },
    /// A bug in the child, which ended it.
    #[error("the virtual machine process crashed: {detail}")]
    Crashed {
        /// Where and why.
        detail: String,
    },
    /// The child made a system call it has no right to.
    #[error("the virtual machine process made a forbidden system call")]
    ForbiddenSystemCall,
    /// The child was killed, by us or by the system.
    #[error("the virtual machine process was killed by signal {signal}")]
    KilledBySignal {
        /// The signal's number.
        signal: i32,
    },
    /// The child ended without a report.
    #[error("the virtual machine process ended with status {code} and no reason")]
    Unexplained {
        /// Its exit status.
        code: i32,
    },
}

/// What a child tells about its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    PoweredOff { code: i32 },
    Reset { panic: Option<String> },
    ProcessorFault,
    SetupFailed { detail: String },
    ConfinementUnavailable { detail: String },
    Crashed { detail: String },
}

impl Report {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    fn read_from(input: impl Read) -> Option<Self> {
        let mut bytes = Vec::new();
        input.take(MAX_REPORT).read_to_end(&mut bytes).ok()?;
        postcard::from_bytes(&bytes).ok()
    }
}

impl From<Report> for ExitReason {
    fn from(report: Report) -> Self {
        match report {
            Report::PoweredOff { code } => Self::PoweredOff { code },
            Report::Reset {
                panic: Some(message),
            } => Self::Panicked {
                message: bounded(&message),
            },
            Report::Reset { panic: None } => Self::Reset,
            Report::ProcessorFault => Self::ProcessorFault,
            Report::SetupFailed { detail } => Self::SetupFailed {
                detail: bounded(&detail),
            },
            Report::ConfinementUnavailable { detail } => Self::ConfinementUnavailable {
                detail: bounded(&detail),
            },
            Report::Crashed { detail } => Self::Crashed {
                detail: bounded(&detail),
            },
        }
    }
}

/// The child is confined because it may be taken over: its texts are cut and cleaned.
fn bounded(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT)
        .collect()
}

impl VmExit {
    /// Combines the way the process ended with what it reported, if anything.
    pub(crate) fn from_parts(status: ExitStatus, pipe: impl Read) -> Self {
        let reason = match (Report::read_from(pipe), status.signal(), status.code()) {
            (Some(Report::Crashed { detail }), ..) => ExitReason::Crashed {
                detail: bounded(&detail),
            },
            (_, Some(SIGSYS), _) => ExitReason::ForbiddenSystemCall,
            (_, Some(signal), _) => ExitReason::KilledBySignal { signal },
            (Some(report), ..) => report.into(),
            (None, None, code) => ExitReason::Unexplained {
                code: code.unwrap_or(-1),
            },
        };
        Self { reason }
    }
}

/// Fuzzing entry: a report from a child that may have been taken over.
pub fn fuzz_report(bytes: &[u8]) {
    let _ = VmExit::from_parts(ExitStatus::from_raw(0), bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(raw: i32, report: Option<&Report>) -> ExitReason {
        let bytes = report.map(Report::to_bytes).unwrap_or_default();
        VmExit::from_parts(ExitStatus::from_raw(raw), bytes.as_slice()).reason
    }

    #[test]
    fn silence_is_never_success() {
        assert_eq!(exit(0, None), ExitReason::Unexplained { code: 0 });
        assert_eq!(exit(7 << 8, None), ExitReason::Unexplained { code: 7 });
    }

    #[test]
    fn only_an_announced_code_is_an_orderly_end() {
        assert_eq!(
            exit(0, Some(&Report::PoweredOff { code: 0 })),
            ExitReason::PoweredOff { code: 0 }
        );
        assert_eq!(
            exit(0, Some(&Report::Reset { panic: None })),
            ExitReason::Reset
        );
    }

    #[test]
    fn signals_win_over_reports_except_for_crashes() {
        assert_eq!(
            exit(9, Some(&Report::PoweredOff { code: 0 })),
            ExitReason::KilledBySignal { signal: 9 }
        );
        assert_eq!(exit(31, None), ExitReason::ForbiddenSystemCall);
        let crash = Report::Crashed {
            detail: "here".into(),
        };
        assert_eq!(
            exit(6, Some(&crash)),
            ExitReason::Crashed {
                detail: "here".into()
            }
        );
    }

    #[test]
    fn panic_text_is_cleaned_and_cut() {
        let report = Report::Reset {
            panic: Some(format!("\x1b[31m{}", "x".repeat(5000))),
        };
        let ExitReason::Panicked { message } = exit(0, Some(&report)) else {
            panic!("not a panic")
        };
        assert_eq!(message.chars().count(), MAX_TEXT);
        assert!(message.starts_with("[31mx"));
    }

    #[test]
    fn any_report_is_read_without_panic() {
        for seed in 0..=u8::MAX {
            fuzz_report(&[seed, seed ^ 0x5a, 0xff, 0xff, 0xff, 0xff, 0x0f, seed]);
        }
    }

    #[test]
    fn damaged_report_counts_as_none() {
        let reason = VmExit::from_parts(ExitStatus::from_raw(0), &[200_u8, 1, 2][..]).reason;
        assert_eq!(reason, ExitReason::Unexplained { code: 0 });
    }
}
