//! Arguments of C: pointers that are checked, then trusted as far as the header's contract goes.
//!
//! In: pointers, counts and lengths. Out: references for as long as a call lasts. Refused: NULL, misaligned pointers,
//! counts of zero or beyond memory, and names that are not UTF-8.

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    slice,
};

use crate::status::Failure;

/// What a caller gives a pointer for.
pub(crate) fn given<T>(pointer: Option<T>, argument: &str) -> Result<T, Failure> {
    pointer.ok_or_else(|| Failure::misuse(argument, "a pointer", "NULL"))
}

/// Refuses pointers to nothing and between values of T, and more values than memory can have.
fn check<T>(pointer: *const T, count: usize, argument: &str) -> Result<(), Failure> {
    let pointer = given((!pointer.is_null()).then_some(pointer), argument)?;
    if !pointer.is_aligned() {
        let expected = format!("a pointer to a multiple of {} bytes", align_of::<T>());
        return Err(Failure::misuse(argument, expected, format!("{pointer:p}")));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::misuse(argument, "at most half of all addresses", format!("{count} values")));
    }
    Ok(())
}

/// The value at a pointer.
///
/// # Safety
/// A pointer that is not NULL points to a value of T that nobody changes while `'a` lasts.
pub(crate) unsafe fn value<'a, T>(pointer: *const T, argument: &str) -> Result<&'a T, Failure> {
    check(pointer, 1, argument)?;
    // SAFETY: it is neither NULL nor misaligned, and the caller answers for the value.
    Ok(unsafe { &*pointer })
}

/// The values of an array, at least one.
///
/// # Safety
/// A pointer that is not NULL points to `count` values of T that nobody changes while `'a` lasts.
pub(crate) unsafe fn values<'a, T>(pointer: *const T, count: usize, argument: &str) -> Result<&'a [T], Failure> {
    check(pointer, count, argument)?;
    if count == 0 {
        return Err(Failure::misuse(argument, "at least one", "a count of 0"));
    }
    // SAFETY: it is neither NULL nor misaligned, the array fits into memory, and the caller answers for the values.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// The room that a caller gives for values, which may not have been written to before.
///
/// # Safety
/// A pointer that is not NULL points to room for `count` values of T that nobody else uses while `'a` lasts.
pub(crate) unsafe fn room<'a, T>(
    pointer: *mut T,
    count: usize,
    argument: &str,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    check(pointer, count, argument)?;
    // SAFETY: it is neither NULL nor misaligned, the room fits into memory, and the caller answers for its length.
    Ok(unsafe { slice::from_raw_parts_mut(pointer.cast(), count) })
}

/// A name that ends with a NUL, such as that of a file.
///
/// # Safety
/// A pointer that is not NULL points to bytes up to a NUL that nobody changes while `'a` lasts.
pub(crate) unsafe fn name<'a>(pointer: *const c_char, argument: &str) -> Result<&'a str, Failure> {
    check(pointer, 1, argument)?;
    // SAFETY: it is not NULL, and the caller answers for the NUL at the end.
    let name = unsafe { CStr::from_ptr(pointer) };
    let wrong = |error: std::str::Utf8Error| format!("invalid UTF-8 after {} bytes", error.valid_up_to());
    let name = name.to_str().map_err(|error| Failure::misuse(argument, "UTF-8", wrong(error)))?;
    if name.is_empty() {
        return Err(Failure::misuse(argument, "a name", "an empty one"));
    }
    Ok(name)
}

/// The bytes of a text, of which there may be none, at NULL too.
///
/// # Safety
/// A pointer that is not NULL points to `bytes` bytes, or where that is [`usize::MAX`] to bytes up to a NUL,
/// that nobody changes while `'a` lasts.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, bytes: usize, argument: &str) -> Result<&'a [u8], Failure> {
    if pointer.is_null() && bytes == 0 {
        return Ok(&[]);
    }
    let ends_with_nul = bytes == usize::MAX;
    check(pointer, if ends_with_nul { 1 } else { bytes }, argument)?;
    if ends_with_nul {
        // SAFETY: it is not NULL, and the caller answers for the NUL at the end.
        return Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes());
    }
    // SAFETY: it is not NULL, the text fits into memory, and the caller answers for its length.
    Ok(unsafe { slice::from_raw_parts(pointer.cast(), bytes) })
}
