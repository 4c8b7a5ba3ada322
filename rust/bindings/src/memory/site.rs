//! Where a buffer was acquired: the code and a position in it, which cost nothing to keep. The file's name and the
//! line are looked up by whoever reads them.

use std::{
    ffi::{c_char, c_int},
    ptr,
};

use pyo3::{ffi, prelude::*};

use crate::{
    interpreter::{self, Spot},
    object::Object,
};

/// How many frames a site has at most.
pub(super) const FRAMES_MAX: usize = 8;

unsafe extern "C" {
    fn PyCode_Addr2Line(code: *mut ffi::PyObject, offset: c_int) -> c_int;
}

/// The frames that a call came from, the innermost first. Made and dropped by attached threads.
pub(super) struct Site(Box<[Frame]>);

struct Frame {
    code: Object,
    offset: c_int,
}

impl Site {
    /// Where the running code stands, with at most so many frames.
    pub fn here(py: Python<'_>, frames: usize) -> Self {
        let mut spots = [Spot {
            code: ptr::null_mut(),
            offset: 0,
        }; FRAMES_MAX];
        let count = interpreter::calling_spots(py, &mut spots[..frames.min(FRAMES_MAX)]);
        Self(
            spots[..count]
                .iter()
                .map(|spot| Frame {
                    // SAFETY: each came with a strong reference, which is taken over here.
                    code: unsafe { Object::steal(spot.code) },
                    offset: spot.offset,
                })
                .collect(),
        )
    }

    /// `"file:line"`.
    pub fn line(&self, py: Python<'_>) -> String {
        match self.0.first() {
            Some(frame) => frame.line(py),
            None => "no Python code".to_owned(), // an embedder's call
        }
    }

    /// A line for each frame, if there is more than one.
    pub fn stack(&self, py: Python<'_>) -> String {
        if self.0.len() < 2 {
            return String::new();
        }
        let lines = self.0.iter().map(|frame| {
            format!(
                "\n  {} in {}",
                frame.line(py),
                frame.text(py, "co_qualname")
            )
        });
        lines.collect()
    }
}

impl Frame {
    fn line(&self, py: Python<'_>) -> String {
        // SAFETY: attached, with a code object.
        let line = unsafe { PyCode_Addr2Line(self.code.as_ptr(), self.offset) };
        format!("{}:{line}", self.text(py, "co_filename"))
    }

    fn text(&self, py: Python<'_>, attribute: &str) -> String {
        let text = self.code.as_py().bind(py).getattr(attribute);
        text.map_or_else(|_| "?".to_owned(), |text| text.to_string())
    }
}

impl Clone for Site {
    fn clone(&self) -> Self {
        let frames = self.0.iter().map(|frame| Frame {
            // SAFETY: alive, and the callers are attached, as whoever has a site.
            code: unsafe { Object::new(frame.code.as_ptr()) },
            offset: frame.offset,
        });
        Self(frames.collect())
    }
}

/// A text for the functions of CPython that take one from C; what is after a zero byte is left out.
pub(super) fn text_for_c(text: String) -> std::ffi::CString {
    let mut bytes = text.into_bytes();
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    std::ffi::CString::new(bytes).unwrap_or_default()
}

/// The format of a text that is passed on as it is.
pub(super) const AS_IT_IS: *const c_char = c"%s".as_ptr();
