//! The one error type of the crate.
//!
//! Every variant says what was found, what was expected and what to do. Errors
//! are `Clone`, because a poisoned tensor hands the first one on.

/// `std::result::Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in words a user can act on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No usable adapter was found.
    #[error(
        "no usable GPU adapter: {tried}. Install a Vulkan, Metal or DX12 driver (`./x doctor` tells more, and installs a software driver on Linux)"
    )]
    NoAdapter {
        /// What was looked for and what was there instead.
        tried: String,
    },
    /// The adapter lacks a feature that was asked for.
    #[error("the adapter lacks {feature}: {detail}")]
    MissingFeature {
        /// The feature's name.
        feature: String,
        /// What it was needed for.
        detail: String,
    },
    /// Something is larger than the device allows.
    #[error("{what} needs {needed}, but this device allows {available}")]
    LimitExceeded {
        /// Which limit.
        what: String,
        /// How much was asked for.
        needed: u64,
        /// How much there is.
        available: u64,
    },
    /// Shapes that do not fit together.
    #[error("{op}: {detail} (at {at})")]
    Shape {
        /// The op that refused.
        op: String,
        /// What was found and what was expected.
        detail: String,
        /// File and line of the caller.
        at: String,
    },
    /// A wrong element type.
    #[error("{op}: {detail} (at {at})")]
    DType {
        /// The op that refused.
        op: String,
        /// What was found and what was expected.
        detail: String,
        /// File and line of the caller.
        at: String,
    },
    /// A gradient was asked for through an op that has none.
    #[error(
        "{op} has no gradient: {detail}. Wrap its input in `stop_gradient`, or give the op a custom gradient"
    )]
    NotDifferentiable {
        /// The op's name.
        op: String,
        /// Why not.
        detail: String,
    },
    /// A graph was put together or used in a way that cannot work.
    #[error("graph: {0}")]
    Graph(String),
    /// A parameter is not there.
    #[error("parameter `{name}` is missing: {detail}")]
    MissingParameter {
        /// The parameter's full name.
        name: String,
        /// Where it was looked for.
        detail: String,
    },
    /// A weights file that cannot be used.
    #[error("weights {file}{}: {detail}", if tensor.is_empty() { String::new() } else { format!(", tensor `{tensor}`") })]
    Weights {
        /// The file.
        file: String,
        /// The tensor, or empty where the whole file is meant.
        tensor: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A data file or batch that cannot be used.
    #[error("data {file}: {detail}")]
    Data {
        /// The file or the input's name.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// NaN or infinity where a finite number must stand.
    #[error("a value that is not finite in {place}: {detail}")]
    NonFinite {
        /// The tensor or the layer.
        place: String,
        /// Which element, which value.
        detail: String,
    },
    /// A wrong argument.
    #[error("{what}: {detail}")]
    Argument {
        /// The function or the option.
        what: String,
        /// What was given and what is allowed.
        detail: String,
    },
    /// The device ran out of memory.
    #[error(
        "the device is out of memory (asked for {asked} bytes); use a smaller batch or a smaller model"
    )]
    OutOfMemory {
        /// Bytes that were asked for.
        asked: u64,
    },
    /// The device is gone.
    #[error(
        "the GPU device was lost: {reason}. Make a new `Gpu`, call `Params::detach`, load the last checkpoint and compile anew"
    )]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// The device did not answer in time.
    #[error("the GPU did not finish within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
    /// A shader that does not compile or does not fit its Rust side.
    #[error("shader `{kernel}`: {message}")]
    Shader {
        /// The kernel's name.
        kernel: String,
        /// The compiler's words.
        message: String,
    },
    /// The driver refused a call.
    #[error("the GPU driver reported an error: {0}")]
    Device(String),
    /// Reading or writing a file failed.
    #[error("{path}: {detail}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        detail: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<std::path::Path>, error: std::io::Error) -> Self {
        Error::Io {
            path: path.as_ref().display().to_string(),
            detail: error.to_string(),
        }
    }

    /// An [`Error::Shape`]; the graph fills in the caller's file and line.
    pub fn shape(op: &str, detail: impl Into<String>) -> Self {
        Error::Shape {
            op: op.into(),
            detail: detail.into(),
            at: String::new(),
        }
    }

    /// An [`Error::DType`]; the graph fills in the caller's file and line.
    pub fn dtype(op: &str, detail: impl Into<String>) -> Self {
        Error::DType {
            op: op.into(),
            detail: detail.into(),
            at: String::new(),
        }
    }

    /// An [`Error::Argument`].
    pub fn argument(what: &str, detail: impl Into<String>) -> Self {
        Error::Argument {
            what: what.into(),
            detail: detail.into(),
        }
    }

    /// The same error with the place of the call, where it has room for one.
    pub(crate) fn located(mut self, place: &std::panic::Location<'_>) -> Self {
        if let Error::Shape { at, .. } | Error::DType { at, .. } = &mut self
            && at.is_empty()
        {
            *at = format!("{}:{}", place.file(), place.line());
        }
        self
    }
}
