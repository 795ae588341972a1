//! Ctrl-C: the first ends training and lets everything be written, the second ends at
//! once. So does the first where nothing is being trained.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody looks at [`stopped`] between steps.
static LISTENING: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The exit code of programs that an interrupt ended.
pub const EXIT_CODE: u8 = 130;

/// While one lives, an interrupt is a wish.
pub struct Listening(());

impl Listening {
    pub fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Where no handler can be set, an interrupt ends the program as ever.
            let _ = ctrlc::set_handler(|| {
                let second = STOPPED.swap(true, Ordering::SeqCst);
                if second || !LISTENING.load(Ordering::SeqCst) {
                    std::process::exit(i32::from(EXIT_CODE));
                }
                eprintln!(
                    "\nstopping after this step, then writing what there is; once more ends at once"
                );
            });
        });
        LISTENING.store(true, Ordering::SeqCst);
        Listening(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}

/// Whether training is to end after this step.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}
