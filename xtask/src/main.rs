//! The one command line: run, emulate, build-igvm, measure, inspect, verify, broker, test, bench, fuzz, doctor.

mod accel;
mod app;
mod bench;
mod boot_rom;
mod cli;
mod conformance;
mod debian;
mod doctor;
mod emulate;
mod fuzz;
mod host;
mod igvm;
mod image;
mod install;
mod kernel;
mod launch;
mod machine;
mod owner;
mod protocol;
mod qemu;
mod run;
mod snp_host;
mod test;
mod workload;

use clap::Parser;

use crate::protocol::status;

fn main() {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own status for a wrong option is 2, which a program could have returned.
            let status = if error.use_stderr() { status::LAUNCH_FAILED } else { 0 };
            let _ = error.print();
            std::process::exit(status);
        }
    };
    let status = match cli.command {
        cli::Task::RunSnp(args) => run::run(&args),
        cli::Task::Emulate(args) => emulate::emulate(&args),
        cli::Task::BuildIgvm(args) => igvm::build_igvm(&args),
        cli::Task::Measure(args) => igvm::measure(&args),
        cli::Task::Inspect(args) => igvm::inspect(&args),
        cli::Task::Verify(args) => owner::run("verify", &args),
        cli::Task::Broker(args) => owner::run("broker", &args),
        cli::Task::Open(args) => owner::run("open", &args),
        cli::Task::Seal(args) => owner::run("seal", &args),
        cli::Task::Keygen(args) => owner::run("keygen", &args),
        cli::Task::Conformance(args) => conformance::conformance(&args),
        cli::Task::FetchLinux(args) => debian::fetch_linux(&args),
        cli::Task::Doctor(args) => doctor::doctor(&args),
        cli::Task::Test(args) => test::test(&args),
        cli::Task::Bench(args) => bench::bench(&args),
        cli::Task::Fuzz(args) => fuzz::fuzz(&args),
    };
    std::process::exit(status);
}
