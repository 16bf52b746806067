//! The kernels: CUDA C++ that travels in the binary, and for each file of it a module with the arguments of its kernels and the
//! shapes of their launches.
//!
//! A kernel takes one argument: a struct that the source declares and that is declared here a second time with
//! [`arguments!`]; a test compares the two texts. What [`Launch`] holds is all that a device, or the emulator of the tests,
//! needs. Addresses are plain numbers here ([`In`], [`Out`]); whoever launches vouches for them.
//!
//! `docs/adding-a-kernel.md` says how one is added and proved.

pub mod act;
pub mod add_norm;
pub mod attention;
pub mod capture;
pub mod cross_entropy;
pub mod csr;
pub mod decode;
pub mod elementwise;
pub mod embed;
pub mod entries;
pub mod gather;
pub mod latent;
pub mod plain_product;
pub mod reduce;
pub mod rope;
pub mod rows;
pub mod select;

use std::ffi::c_void;
use std::marker::PhantomData;

pub use plain_product::PlainProduct;

/// Every file of kernels.
pub const SOURCES: [Source; 17] = [
    embed::SOURCE,
    add_norm::SOURCE,
    rope::SOURCE,
    attention::SOURCE,
    act::SOURCE,
    capture::SOURCE,
    cross_entropy::SOURCE,
    gather::SOURCE,
    select::SOURCE,
    decode::SOURCE,
    csr::SOURCE,
    latent::SOURCE,
    reduce::SOURCE,
    plain_product::SOURCE,
    elementwise::SOURCE,
    rows::SOURCE,
    entries::SOURCE,
];

/// What stands before every source.
pub const PRELUDE: &str = include_str!("prelude.cuh");

/// Widths of rows are multiples of this: 16 bytes of bfloat16 are read at once.
pub const VECTOR: usize = 8;

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The file's name without its end.
    pub name: &'static str,
    /// Its text, without the prelude.
    pub text: &'static str,
    /// Its kernels.
    pub entries: &'static [Entry],
}

impl Source {
    /// What is compiled.
    pub fn code(&self) -> String {
        // messages of the compiler name lines of the file
        format!("{PRELUDE}#line 1 \"{}.cu\"\n{}", self.name, self.text)
    }
}

/// One kernel of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the source.
    pub name: &'static str,
    /// Threads of its blocks.
    pub threads: u32,
    /// Registers a thread it may use, at most: tests hold the compiler to it.
    pub registers: u32,
}

/// A kernel with its arguments and the shape of its launch.
#[derive(Debug)]
pub struct Launch<'a> {
    entry: Entry,
    grid: [u32; 2],
    shared: u32,
    arguments: *const c_void,
    bytes: usize,
    lives: PhantomData<&'a ()>,
}

impl<'a> Launch<'a> {
    /// `grid` blocks of `entry` with `shared` bytes of dynamic shared memory each.
    fn new<A: Arguments>(entry: Entry, grid: [usize; 2], shared: usize, arguments: &'a A) -> Self {
        let [x, y] = grid;
        assert!(x > 0 && x <= i32::MAX as usize && (1..=65535).contains(&y), "`{}`: a grid of {x} x {y}", entry.name);
        assert!(shared <= MOST_SHARED, "`{}`: {shared} bytes of shared memory", entry.name);
        Self {
            entry,
            grid: [x as u32, y as u32],
            shared: shared as u32,
            arguments: std::ptr::from_ref(arguments).cast(),
            bytes: size_of::<A>(),
            lives: PhantomData,
        }
    }

    /// The kernel.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Blocks along `x` and `y`.
    pub fn grid(&self) -> [u32; 2] {
        self.grid
    }

    /// Bytes of dynamic shared memory a block; above 48 KiB the function must be told before.
    pub fn shared(&self) -> u32 {
        self.shared
    }

    /// The kernel's one argument. A driver takes an array of pointers to arguments: this is its one element.
    pub fn argument(&self) -> *const c_void {
        self.arguments
    }

    /// Bytes of the argument.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of shared memory a block may have on every architecture that is compiled for (sm_80: 163 KiB, sm_90: 227 KiB).
pub const MOST_SHARED: usize = 163 << 10;

/// The address of numbers that a kernel reads; 0 where there are none.
#[repr(transparent)]
pub struct In<T>(u64, PhantomData<fn() -> T>);

/// The address of numbers that a kernel writes; 0 where it need not.
#[repr(transparent)]
pub struct Out<T>(u64, PhantomData<fn() -> T>);

macro_rules! address {
    ($name:ident) => {
        impl<T> $name<T> {
            /// The numbers at an address.
            pub fn at(address: u64) -> Self {
                Self(address, PhantomData)
            }

            /// Whether there are any.
            pub fn is_given(self) -> bool {
                self.0 != 0
            }

            /// The address.
            pub fn address(self) -> u64 {
                self.0
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}

        impl<T> Default for $name<T> {
            fn default() -> Self {
                Self::at(0)
            }
        }

        impl<T> std::fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(In);
address!(Out);

/// Bits of a bfloat16.
pub type Bf16 = u16;

/// A type that fields of arguments have.
pub trait Field {
    /// Its name in the kernels' source.
    fn name() -> String;
}

macro_rules! fields {
    ($($type:ty => $name:literal),+ $(,)?) => {
        $(impl Field for $type {
            fn name() -> String {
                $name.to_owned()
            }
        })+
    };
}

fields!(u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64", i32 => "int", f32 => "float", f64 => "double");

impl<T: Field> Field for In<T> {
    fn name() -> String {
        format!("const {}*", T::name())
    }
}

impl<T: Field> Field for Out<T> {
    fn name() -> String {
        format!("{}*", T::name())
    }
}

/// The argument of a kernel, or a part of one.
pub trait Arguments: Copy {
    /// As the source declares it.
    fn declaration() -> String;
}

/// Declares the argument of a kernel as the source does: the same fields in the same order, each with its doc.
macro_rules! arguments {
    ($(#[$about:meta])* pub struct $name:ident = $c:literal { $($(#[$doc:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $crate::compute::cuda::kernels::Field for $name {
            fn name() -> String {
                $c.to_owned()
            }
        }

        impl $crate::compute::cuda::kernels::Arguments for $name {
            fn declaration() -> String {
                let mut text = concat!("struct ", $c, " {\n").to_owned();
                $(
                    text += &format!("  {} {};\n", <$type as $crate::compute::cuda::kernels::Field>::name(), stringify!($field));
                )+
                text + "};\n"
            }
        }
    };
}
pub(crate) use arguments;

/// A size as kernels take it.
pub(crate) fn size(n: i32) -> usize {
    usize::try_from(n).expect("sizes are not negative")
}

/// Panics unless rows of this width can be read in vectors.
pub(crate) fn assert_vectors(width: i32) {
    assert!(
        width > 0 && size(width).is_multiple_of(VECTOR),
        "rows of {width} numbers cannot be read in vectors of {VECTOR}"
    );
}

#[cfg(test)]
mod tests;
