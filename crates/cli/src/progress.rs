//! How far a pull is: bars on a terminal, one for the whole and one for each layer on its way; plain lines elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_vm_image::{LayerSummary, PullEvent, PullObserver};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::ui::{self, Ui};

/// How often the bars move on when nothing happens, so that speed and remaining time stay true.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// The longest silence of the plain lines while bytes come.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Before anything is known.
const ASKING: &str = "{msg}";
/// The bar of the whole; without colour it tells the same.
const TOTAL: &str = "{msg} [{bar:30}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
/// The bar of a layer.
const LAYER: &str = "  {msg} [{bar:20}] {decimal_bytes} of {decimal_total_bytes}";
/// Done, the front, to be done.
const BAR: &str = "=> ";

/// Follows a pull.
pub(crate) struct PullProgress {
    ui: Ui,
    state: RefCell<State>,
}

struct State {
    view: View,
    started: Instant,
    layers: Vec<Layer>,
    downloaded: u64,
}

#[derive(Clone, Copy)]
struct Layer {
    size: u64,
    received: u64,
}

enum View {
    Bars(Bars),
    Lines { last: Instant },
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    layers: BTreeMap<usize, ProgressBar>,
}

impl PullProgress {
    pub(crate) fn new(ui: Ui) -> Self {
        let started = Instant::now();
        let view = if ui.draws() {
            View::Bars(Bars::new())
        } else {
            View::Lines { last: started }
        };
        let state = State {
            view,
            started,
            layers: Vec::new(),
            downloaded: 0,
        };
        Self {
            ui,
            state: RefCell::new(state),
        }
    }

    /// Keeps the figures true while nothing happens.
    pub(crate) fn tick(&self) {
        let mut state = self.state.borrow_mut();
        match &state.view {
            View::Bars(bars) => bars.total.tick(),
            View::Lines { last } if last.elapsed() >= LINE_INTERVAL && !state.layers.is_empty() => {
                let (wanted, elapsed) = (state.wanted(), state.started.elapsed());
                let line = line_of_total(state.downloaded, wanted, elapsed);
                state.say(self.ui, &line);
            }
            View::Lines { .. } => {}
        }
    }

    /// Takes the bars away and, if the image is here, says what it took.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        if let View::Bars(bars) = &state.view {
            // What is finished is not drawn again, by whatever is said afterwards.
            for bar in bars.layers.values().chain([&bars.total]) {
                bar.finish_and_clear();
            }
        }
        if outcome == Outcome::Complete {
            let line = format!(
                "pulled {} in {:.1} s",
                megabytes(state.downloaded),
                state.started.elapsed().as_secs_f64()
            );
            state.say(self.ui, &line);
        }
    }
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    Broken,
}

impl PullObserver for PullProgress {
    fn event(&self, event: PullEvent<'_>) {
        let mut state = self.state.borrow_mut();
        match event {
            PullEvent::Resolved { digest, layers } => {
                let bytes = layers.iter().map(|layer| layer.size).sum();
                let line = format!("{digest}: {} layers, {}", layers.len(), megabytes(bytes));
                state.say(self.ui, &line);
                state.resolved(layers);
            }
            PullEvent::LayerReused { layer } => state.reused(layer),
            PullEvent::LayerStarted { layer } => state.layer_started(layer),
            PullEvent::LayerProgress { layer, received } => state.received(layer, received),
            PullEvent::LayerRetried { layer, reason } => {
                let reason = ui::harmless(&reason.to_string());
                let line = format!("layer {} is tried again: {reason}", layer + 1);
                state.aside(|| self.ui.warn(&line));
            }
            PullEvent::LayerDone { layer } => state.layer_done(layer, self.ui),
        }
    }
}

impl State {
    fn resolved(&mut self, layers: &[LayerSummary]) {
        let layers = layers.iter().map(|layer| Layer {
            size: layer.size,
            received: 0,
        });
        self.layers = layers.collect();
        let wanted = self.wanted();
        if let View::Bars(bars) = &self.view {
            bars.total.set_style(style(TOTAL));
            bars.total.set_length(wanted);
            bars.total.set_message("pulling");
            bars.total.reset_eta();
        }
    }

    /// Bytes that are downloaded or still to be.
    fn wanted(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// A layer that need not be downloaded is none of the work.
    fn reused(&mut self, layer: usize) {
        if let Some(known) = self.layers.get_mut(layer) {
            known.size = known.received;
        }
        let wanted = self.wanted();
        if let View::Bars(bars) = &self.view {
            bars.total.set_length(wanted);
        }
    }

    fn layer_started(&mut self, layer: usize) {
        let (count, size) = (self.layers.len(), self.layers.get(layer).map(|it| it.size));
        if let View::Bars(bars) = &mut self.view {
            let bar = bars.all.add(bar(LAYER));
            bar.set_length(size.unwrap_or_default());
            bar.set_message(format!("layer {} of {count}", layer + 1));
            bars.layers.insert(layer, bar);
        }
    }

    fn received(&mut self, layer: usize, received: u64) {
        if let Some(known) = self.layers.get_mut(layer) {
            self.downloaded += received.saturating_sub(known.received);
            known.received = received;
        }
        if let View::Bars(bars) = &self.view {
            bars.total.set_position(self.downloaded);
            if let Some(bar) = bars.layers.get(&layer) {
                bar.set_position(received);
            }
        }
    }

    fn layer_done(&mut self, layer: usize, ui: Ui) {
        let (count, size) = (self.layers.len(), self.layers.get(layer).map(|it| it.size));
        match &mut self.view {
            View::Bars(bars) => {
                if let Some(bar) = bars.layers.remove(&layer) {
                    bar.finish_and_clear();
                    bars.all.remove(&bar);
                }
            }
            View::Lines { .. } => {
                let size = megabytes(size.unwrap_or_default());
                self.say(ui, &format!("layer {} of {count}: {size}", layer + 1));
            }
        }
    }

    /// A line above the bars.
    fn say(&mut self, ui: Ui, line: &str) {
        self.aside(|| ui.status(line));
        if let View::Lines { last } = &mut self.view {
            *last = Instant::now();
        }
    }

    fn aside(&self, say: impl FnOnce()) {
        match &self.view {
            View::Bars(bars) => bars.all.suspend(say),
            View::Lines { .. } => say(),
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(bar(ASKING));
        total.set_message("asking the registry");
        Self {
            all,
            total,
            layers: BTreeMap::new(),
        }
    }
}

fn bar(template: &str) -> ProgressBar {
    ProgressBar::new(0).with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constants");
    style.progress_chars(BAR)
}

fn line_of_total(downloaded: u64, wanted: u64, elapsed: Duration) -> String {
    let speed = downloaded as f64 / elapsed.as_secs_f64().max(0.001);
    let left = wanted.saturating_sub(downloaded) as f64 / speed.max(1.0);
    format!(
        "{} of {}, {:.1} MB/s, {left:.0} s left",
        megabytes(downloaded),
        megabytes(wanted),
        speed / 1e6
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_bytes_speed_and_remaining_time() {
        let line = line_of_total(2_000_000, 12_540_000, Duration::from_secs(4));
        assert_eq!(line, "2.0 MB of 12.5 MB, 0.5 MB/s, 21 s left");
        let line = line_of_total(0, 5_000_000, Duration::ZERO);
        assert_eq!(line, "0.0 MB of 5.0 MB, 0.0 MB/s, 5000000 s left");
    }

    #[test]
    fn only_what_is_downloaded_counts() {
        let mut state = State {
            view: View::Lines {
                last: Instant::now(),
            },
            started: Instant::now(),
            layers: vec![
                Layer {
                    size: 10,
                    received: 0,
                },
                Layer {
                    size: 7,
                    received: 0,
                },
            ],
            downloaded: 0,
        };
        state.reused(0);
        state.received(1, 3);
        state.received(1, 7);
        assert_eq!((state.downloaded, state.wanted()), (7, 7));
    }
}
