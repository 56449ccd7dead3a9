//! What memory that was only zeroed, or held other numbers before, may be read as.

/// Number types of which every bit pattern, zero included, is a value.
pub trait Plain: Copy + sealed::Sealed {}
mod sealed {
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for u8 {}
    impl Sealed for i16 {}
    impl Sealed for u16 {}
    impl Sealed for i32 {}
    impl Sealed for f32 {}
}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for i16 {}
impl Plain for u16 {}
impl Plain for i32 {}
impl Plain for f32 {}
