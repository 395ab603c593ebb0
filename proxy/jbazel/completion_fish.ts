import type { CompletedOption, CompletedVerb } from "./completed_verb.ts";

/** The script for fish. */
export function fishCompletion(verbs: CompletedVerb[]): string {
  return `\
# Completion of jbazel for fish: jbazel completion fish | source

function __jbazel_has_no_verb
    test (count (commandline -opc)) -eq 1
end

function __jbazel_verb_is
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $argv[1]
end

# As for bazel, if something that does so is installed.
complete -c jbazel -w bazel
complete -c jbazel -n __jbazel_has_no_verb -l help -d 'about jbazel'
complete -c jbazel -n __jbazel_has_no_verb -l version -d 'about jbazel'
${verbs.map(verbLines).join("")}`;
}

function verbLines({ name, description, options, words }: CompletedVerb): string {
  const lines = [
    `complete -c jbazel -n __jbazel_has_no_verb -f -a ${name} -d ${quote(description)}`,
    ...words.map((word) => `complete -c jbazel -n '__jbazel_verb_is ${name}' -f -a ${word}`),
    ...options.map((option) => `complete -c jbazel -n '__jbazel_verb_is ${name}' ${flags(option)}`),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function flags({ names, description, value }: CompletedOption): string {
  const action =
    { none: " -f", file: " -r -F", directory: " -x -a '(__fish_complete_directories)'", other: " -x" }[value];
  const named = names.map((n) => n.startsWith("--") ? `-l ${n.slice(2)}` : `-s ${n.slice(1)}`);
  return `${named.join(" ")}${action} -d ${quote(description)}`;
}

function quote(text: string): string {
  return `'${text.replaceAll(/['\\]/g, "\\$&")}'`;
}
