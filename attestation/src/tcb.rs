//! Floors of the TCB: the security patch levels below which a report is not accepted.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use sev::firmware::host::TcbVersion;

/// The least level of each component; none where any will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TcbFloor {
    /// FMC firmware (Turin and later).
    pub fmc: Option<u8>,
    /// PSP bootloader.
    pub bootloader: Option<u8>,
    /// PSP operating system.
    pub tee: Option<u8>,
    /// SNP firmware.
    pub snp: Option<u8>,
    /// Microcode.
    pub microcode: Option<u8>,
}

impl TcbFloor {
    /// Whether nothing is demanded.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is below the floor, in words. A component that the chip does not have is below any floor of it.
    pub fn lacks(&self, tcb: &TcbVersion) -> Vec<String> {
        let levels = [
            ("fmc", self.fmc, tcb.fmc),
            ("bootloader", self.bootloader, Some(tcb.bootloader)),
            ("tee", self.tee, Some(tcb.tee)),
            ("snp", self.snp, Some(tcb.snp)),
            ("microcode", self.microcode, Some(tcb.microcode)),
        ];
        let mut lacks = Vec::new();
        for (name, floor, level) in levels {
            match (floor, level) {
                (Some(floor), Some(level)) if level < floor => {
                    lacks.push(format!("{name} {level}, at least {floor} demanded"));
                }
                (Some(floor), None) => lacks.push(format!("no {name}, at least {floor} demanded")),
                _ => {}
            }
        }
        lacks
    }
}

impl FromStr for TcbFloor {
    type Err = String;

    /// Parses `bootloader=4,tee=0,snp=24,microcode=219`, with `fmc=` for Turin; in any order, and any may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut floor = Self::default();
        for clause in text.split(',') {
            let wrong = || {
                format!(
                    "`{clause}`: write levels such as snp=24,microcode=219; known are fmc, bootloader, tee, snp, microcode, each 0 to 255"
                )
            };
            let (name, level) = clause.trim().split_once('=').ok_or_else(wrong)?;
            let slot = match name {
                "fmc" => &mut floor.fmc,
                "bootloader" => &mut floor.bootloader,
                "tee" => &mut floor.tee,
                "snp" => &mut floor.snp,
                "microcode" => &mut floor.microcode,
                _ => return Err(wrong()),
            };
            let level = level.parse().map_err(|_| wrong())?;
            if slot.replace(level).is_some() {
                return Err(format!("{name} stands twice"));
            }
        }
        Ok(floor)
    }
}

impl TryFrom<String> for TcbFloor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A TCB in words, in the notation of floors.
pub struct Words<'a>(pub &'a TcbVersion);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TcbVersion { fmc, bootloader, tee, snp, microcode } = self.0;
        if let Some(fmc) = fmc {
            write!(f, "fmc={fmc},")?;
        }
        write!(f, "bootloader={bootloader},tee={tee},snp={snp},microcode={microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCB: TcbVersion = TcbVersion { fmc: None, bootloader: 4, tee: 0, snp: 24, microcode: 219 };

    #[test]
    fn a_floor_is_met_at_its_level() {
        let words = Words(&TCB).to_string();
        let floor: TcbFloor = words.parse().unwrap();
        assert!(floor.lacks(&TCB).is_empty());
        for component in ["bootloader=5", "tee=1", "snp=25", "microcode=220", "fmc=0"] {
            assert_eq!(component.parse::<TcbFloor>().unwrap().lacks(&TCB).len(), 1, "{component}");
        }
        assert!("fmc=1".parse::<TcbFloor>().unwrap().lacks(&TcbVersion { fmc: Some(1), ..TCB }).is_empty());
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", "snp", "snp=", "snp=256", "snp=-1", "psp=1", "snp=1,snp=2", "snp=1,,tee=0"] {
            assert!(text.parse::<TcbFloor>().is_err(), "{text}");
        }
    }
}
