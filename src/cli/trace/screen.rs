//! The screen of a terminal: taken over, redrawn, and given back whatever happens.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsFd as _,
    panic,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    time::{Instant, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{
        InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr,
        tcgetwinsize, tcsetattr,
    },
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH},
    iterator::Signals,
};

use super::{
    metrics::Sample,
    view::{Size, View},
};
use crate::{
    base::sync,
    cli::output::{Failure, Result, Style, print, write},
};

/// Other screen, no cursor, no line wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
/// All of that back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Messages that may wait to be shown; a feed that is faster than the terminal has to wait.
const QUEUE: usize = 128;
/// Bytes that follow a lone Esc within this time belong to it: it was another key.
const ESCAPE_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

pub enum Message {
    /// A line of a log, and when it came in.
    Line(Vec<u8>, SystemTime),
    /// The metrics, and when they came in.
    Sample(Sample, Instant),
    /// Nothing more will come, and why.
    End(String),
    Resized,
    Quit,
    /// The process is to end by this signal.
    Killed(i32),
}

/// The terminal that keys come from, if there is one, and its modes before we changed them; none while
/// the screen is not ours.
static BEFORE: Mutex<Option<Option<(File, Termios)>>> = Mutex::new(None);

/// Shows `view` until its user or a signal ends it. `feed` runs in a thread of its own and sends
/// what there is to show.
pub fn run(mut view: View, feed: impl FnOnce(SyncSender<Message>) + Send + 'static) -> Result<()> {
    let (sender, messages) = mpsc::sync_channel(QUEUE);
    let start = || -> io::Result<()> {
        watch_signals(sender.clone())?;
        enter(sender.clone())?;
        spawn("trace", move || feed(sender))
    };
    let style = Style::of_stdout();
    let ended = start().map(|()| show(&mut view, &messages, style));
    give_back();
    let ended = ended.map_err(|e| format!("failed to use the terminal: {e}"))?;

    // So that it can still be looked at.
    print(&(view.lines(size(), style).join("\n") + "\n"))?;
    match ended {
        Message::Killed(signal) => {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            Err(Failure::Exit(1))
        }
        Message::End(reason) => Err(reason.into()),
        _ => Ok(()),
    }
}

/// Draws whenever something happens, once for all that happened meanwhile; returns what ended it.
fn show(view: &mut View, messages: &Receiver<Message>, style: Style) -> Message {
    draw(view, style);
    while let Ok(first) = messages.recv() {
        for message in std::iter::once(first).chain(messages.try_iter().take(QUEUE)) {
            match message {
                Message::Line(line, now) => view.add(&line, now),
                Message::Sample(sample, now) => view.set(sample, now),
                Message::Resized => {}
                end => return end,
            }
        }
        draw(view, style);
    }
    // Only if all senders panicked.
    Message::End("internal error".to_owned())
}

/// If the terminal is gone, its signal is on the way.
fn draw(view: &View, style: Style) {
    let _ = write(frame(&view.lines(size(), style)).as_bytes());
}

/// The text that draws `lines` over those on the screen; to clear it first would flicker.
///
/// Erases before it writes: behind a line that fills the width, its last character would go. No line
/// feed follows the last line: at the bottom of the screen it would scroll the first one off.
fn frame(lines: &[String]) -> String {
    let (last, others) = match lines.split_last() {
        Some((last, others)) => (last.as_str(), others),
        None => ("", lines),
    };
    let others: String = others.iter().map(|line| format!("\x1b[2K{line}\r\n")).collect();
    format!("\x1b[H{others}\x1b[J{last}")
}

fn size() -> Size {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { width: size.ws_col.into(), height: size.ws_row.into() }
        }
        _ => Size { width: 80, height: 24 },
    }
}

/// Takes the screen and the terminal that the user types on.
fn enter(sender: SyncSender<Message>) -> io::Result<()> {
    let keyboard = match io::stdin().is_terminal() {
        true => Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
        false => File::open("/dev/tty").ok(),
    };
    let mut before = None;
    if let Some(keyboard) = keyboard {
        let modes = tcgetattr(&keyboard)?;
        let mut ours = modes.clone();
        // Keys come one by one and unseen. Ctrl-C is a key as well, and Ctrl-Z means nothing:
        // it would leave the terminal to a shell in this state.
        ours.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN);
        ours.input_modes.remove(InputModes::IXON | InputModes::ICRNL);
        ours.special_codes[SpecialCodeIndex::VMIN] = 1;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&keyboard, OptionalActions::Now, &ours)?;
        before = Some((keyboard.try_clone()?, modes));
        spawn("keys", move || watch_keys(keyboard, &sender))?;
    }
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    // A panic of any thread shows its reason on the normal screen.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |reason| {
        give_back();
        tell(reason);
    }));
    write(ENTER.as_bytes())
}

fn give_back() {
    if let Some(keyboard) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = write(LEAVE.as_bytes());
        if let Some((keyboard, modes)) = keyboard {
            let _ = tcsetattr(&keyboard, OptionalActions::Now, &modes);
        }
    }
}

/// Starts a thread that ends with the process.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    sync::start(name, 1 << 20, Box::new(run)).map(drop)
}

fn watch_keys(mut keyboard: File, sender: &SyncSender<Message>) {
    let mut keys = [0; 64];
    while let Ok(count @ 1..) = keyboard.read(&mut keys) {
        let more_follows = || {
            let mut ready = [PollFd::new(&keyboard, PollFlags::IN)];
            poll(&mut ready, Some(&ESCAPE_TIMEOUT)).is_ok_and(|count| count > 0)
        };
        if wants_to_quit(&keys[..count], more_follows) {
            let _ = sender.send(Message::Quit);
        }
    }
}

/// Ctrl-C anywhere, and Esc by itself: other keys send texts that begin with it.
fn wants_to_quit(keys: &[u8], more_follows: impl FnOnce() -> bool) -> bool {
    keys.contains(&3) || (keys == [0x1b] && !more_follows())
}

fn watch_signals(sender: SyncSender<Message>) -> io::Result<()> {
    let mut signals = Signals::new([SIGWINCH, SIGINT, SIGTERM, SIGHUP])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            let _ = sender.send(match signal {
                SIGWINCH => Message::Resized,
                SIGINT => Message::Quit,
                signal => Message::Killed(signal),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_drawn_without_a_line_feed_at_the_end() {
        let lines = ["one", "two", "three"].map(str::to_owned);
        assert_eq!("\x1b[H\x1b[2Kone\r\n\x1b[2Ktwo\r\n\x1b[Jthree", frame(&lines));
        assert_eq!("\x1b[H\x1b[Jone", frame(&lines[..1]));
        assert_eq!("\x1b[H\x1b[J", frame(&[]));
    }

    #[test]
    fn esc_and_ctrl_c_quit_and_no_other_key_does() {
        assert!(wants_to_quit(b"\x1b", || false));
        assert!(wants_to_quit(b"\x03", || false));
        assert!(wants_to_quit(b"ab\x03", || false));
        assert!(!wants_to_quit(b"\x1b", || true));
        for keys in [&b"\x1b[A"[..], b"\x1bOP", b"q", b"\r", b"\x1a", b"\x1b\x1b[A"] {
            assert!(!wants_to_quit(keys, || false), "{keys:?}");
        }
    }
}
