//! How a channel is asked for: `overflow=` and `rate=`.

use penstock_core::channel::{Overflow, Rate};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::PyString,
};

const OVERFLOWS: [(&str, Overflow); 4] = [
    ("block", Overflow::Block),
    ("drop_newest", Overflow::DropNewest),
    ("drop_oldest", Overflow::DropOldest),
    ("error", Overflow::Error),
];

pub fn overflow(value: &Bound<'_, PyAny>) -> PyResult<Overflow> {
    let refuse = |kind: fn(String) -> PyErr| -> PyResult<Overflow> {
        let shown = value.repr()?;
        Err(kind(format!(
            "overflow must be 'block', 'drop_newest', 'drop_oldest' or 'error', not {shown}"
        )))
    };
    let Ok(text) = value.cast::<PyString>() else {
        return refuse(PyTypeError::new_err);
    };
    let text = text.to_cow()?;
    match OVERFLOWS.iter().find(|(name, _)| *name == text) {
        Some((_, overflow)) => Ok(*overflow),
        None => refuse(PyValueError::new_err),
    }
}

/// A policy that drops values, for a channel that holds none.
pub fn nothing_to_drop(overflow: Overflow) -> PyErr {
    let name = OVERFLOWS
        .iter()
        .find(|(_, known)| *known == overflow)
        .map_or("", |(name, _)| name);
    PyValueError::new_err(format!(
        "overflow='{name}' needs a capacity of at least 1, not capacity=0"
    ))
}

/// A `penstock.Rate`, which has checked its values.
pub fn rate(value: &Bound<'_, PyAny>) -> PyResult<Rate> {
    let class = value.py().import("penstock.channel")?.getattr("Rate")?;
    if !value.is_instance(&class)? {
        return Err(PyTypeError::new_err(format!(
            "rate must be None or a penstock.Rate, not {}",
            value.repr()?
        )));
    }
    Ok(Rate {
        per_second: value.getattr("per_second")?.extract()?,
        // More than fits is as good as no bound.
        burst: value.getattr("burst")?.extract().unwrap_or(u64::MAX),
    })
}
