/**
 * What may differ between two runs of the same command by the same Bazel: times, the progress that it happened to show,
 * process ids and memory. Nothing else is touched: the two sides of a comparison work at the same paths.
 */

/** Lines that say how far a command is: which of them are printed depends on time, or on who came first. */
const PROGRESS = [
  /^(Loading|Analyzing|Computing main repo mapping|Building): ?/,
  /^\[[\d,]+ \/ [\d,]+\]/,
  // What runs right now, below such a line.
  /^ {4}\S.*; \d+s\b/,
  /^ {4}(currently loading|Fetching |checking cached actions|\S.*\[(Sched|Prepa|Scann)\])/,
  // Once for both sides.
  /^Extracting Bazel installation/,
];

/** RBS's own, for what takes more than a second. */
const OWN_PROGRESS = [/^rbs: .* \d+\.\d ?s$/, /^rbs: (syncing|bringing home) \d/];

/** The lines that RBS itself has written to a command's standard error, without progress. */
export function sentences(stderr: string): string[] {
  return stderr.split(/\r?\n/).filter((line) => /^rbs: /.test(line) && !OWN_PROGRESS.some((one) => one.test(line)));
}

/** A build's result, which Bazel prints several times: how often, and between which other lines, is a matter of time. */
const RESULT = /^(INFO: Build completed|(FAILED|ERROR): Build did NOT complete)/;

/** The standard error of a command as lines, without progress and times, and with the result once. */
export function normalizeStderr(stderr: string): string[] {
  const lines = stderr.split(/\r?\n/)
    .filter((line) => line !== "" && ![...PROGRESS, ...OWN_PROGRESS].some((pattern) => pattern.test(line)))
    .map((line) =>
      normalizeTimes(line)
        .replace(/\b(Elapsed time|Critical Path): [\d.]+s/g, "$1: #s")
        // How many targets are configured depends on which of two threads comes first, also with the stock client.
        .replace(/(\d+ packages? loaded), \d+ targets? configured/, "$1, # targets configured")
        .replace(/^\[FATAL \d\d:\d\d:\d\d\.\d+ /, "[FATAL # ")
        // Java's name of an object, which Bazel 2.1.0 prints in one of its errors.
        .replace(/(\bcom\.google\.[\w.]+@)[0-9a-f]+/, "$1#")
    );
  // A build that fails ends while other actions of it run: how many had ended by then is a matter of time.
  const failed = lines.some((line) => /Build did NOT complete/.test(line));
  return lines
    .filter((line, i) => !RESULT.test(line) || lines.lastIndexOf(line) === i)
    .map((line) => failed ? line.replace(/^INFO: \d+ process(es)?: .*\.$/, "INFO: # processes") : line);
}

/** The seconds that a test took, in summaries, logs and XML. */
export function normalizeTimes(text: string): string {
  return text
    .replace(/ in \d+(\.\d+)?s\b/g, " in #s")
    .replace(/\b(time|timestamp|duration)="[^"]*"/g, '$1="#"');
}

/** `bazel info`: values that differ from one server to the next, or from one moment to the next. */
export function normalizeInfo(stdout: string): string {
  return stdout.replace(
    /^(server_pid|server_log|used-heap-size|committed-heap-size|gc-count|gc-time): .*$/gm,
    "$1: #",
  );
}
