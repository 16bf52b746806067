//! Which instructions compute what, and why these: in words, for whoever asks.

use serde::Serialize;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::product::multiplies_pairs;
use crate::compute::cpu::screen::screens_pairs;

/// How a [`Cpu`] computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arithmetic {
    /// The widest instructions that loops use.
    pub instructions: &'static str,
    /// Why these.
    pub because: String,
    /// Products with `float32` weights.
    pub float32: &'static str,
    /// Products with `bfloat16` weights.
    pub bfloat16: &'static str,
    /// How a coder's selections are screened.
    pub screen: &'static str,
}

impl Cpu {
    /// How it computes.
    pub fn arithmetic(&self) -> Arithmetic {
        let (isa, of_machine) = (self.isa(), Isa::of_machine());
        let (pairs, screens_pairs) = self.run(|| (multiplies_pairs(), screens_pairs()));
        Arithmetic {
            instructions: isa.name(),
            because: match isa == of_machine {
                true => "the widest that this processor has".to_owned(),
                false => format!("as asked; this processor has {of_machine}"),
            },
            float32: match isa {
                Isa::Baseline => "f32, fused in software: right, and slow",
                Isa::Avx2 => "f32, 8 at a time",
                Isa::Avx512 | Isa::Avx512Bf16 => "f32, 16 at a time",
            },
            bfloat16: match (pairs, isa) {
                (true, _) => "vdpbf16ps: pairs of bfloat16, twice as fast on these cores as f32",
                (false, Isa::Avx512Bf16) => {
                    "rounded to bfloat16, multiplied as f32: vdpbf16ps is slower on these cores"
                }
                (false, _) => "rounded to bfloat16, multiplied as f32: there is no vdpbf16ps",
            },
            screen: match screens_pairs {
                true => "in bfloat16 (vdpbf16ps); what could be chosen is computed again in f32",
                false => "in f32; what could be chosen is computed again in a fixed order",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_instructions_are_named_with_what_there_would_be() {
        for isa in Isa::ALL.into_iter().filter(|isa| *isa <= Isa::of_machine()) {
            let found = Cpu::with_isa(2, isa).unwrap().arithmetic();
            assert_eq!(found.instructions, isa.name());
            assert_eq!(found.because.contains("asked"), isa != Isa::of_machine(), "{found:?}");
            let has_pairs = isa == Isa::Avx512Bf16;
            assert_eq!(found.screen.contains("vdpbf16ps"), has_pairs, "{found:?}");
            assert!(has_pairs || found.bfloat16.contains("no vdpbf16ps"), "{found:?}");
        }
    }
}
