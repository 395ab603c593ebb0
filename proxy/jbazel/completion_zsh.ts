import type { CompletedOption, CompletedVerb } from "./completed_verb.ts";

/** The script for zsh: to be sourced, or saved as a file \`_jbazel\` of the fpath. */
export function zshCompletion(verbs: CompletedVerb[]): string {
  return `\
#compdef jbazel
# Completion of jbazel for zsh: source <(jbazel completion zsh), after compinit

_jbazel() {
  local -a verbs
  verbs=(
${verbs.map((v) => `    ${quote(`${v.name}:${v.description}`)}\n`).join("")}\
  )
  if (( CURRENT > 2 )); then
    case $words[2] in
${verbs.map(verbCase).join("")}\
    esac
  elif (( CURRENT == 2 )); then
    _describe -t verbs 'command of jbazel' verbs
  fi
  # As for bazel, if something that does so is installed.
  if (( $+_comps[bazel] )); then
    words[1]=bazel
    local service=bazel
    $_comps[bazel]
  fi
}

if [[ $funcstack[1] == _jbazel ]]; then
  _jbazel "$@"
else
  compdef _jbazel jbazel
fi
`;
}

function verbCase({ name, options, words }: CompletedVerb): string {
  const specs = [...options.flatMap(specsOf), ...(words.length > 0 ? [quote(`1:: :(${words.join(" ")})`)] : [])];
  return `\
      ${name})
        shift words
        (( CURRENT-- ))
        _arguments \\
          ${specs.join(" \\\n          ")}
        return ;;
`;
}

function specsOf({ names, description, value }: CompletedOption): string[] {
  const text = description.replaceAll(/[[\]:\\]/g, "\\$&");
  const action = { none: "", file: ":file:_files", directory: ":directory:_files -/", other: ":value: " }[value];
  return names.map((n) => quote(`${n}${value !== "none" && n.startsWith("--") ? "=" : ""}[${text}]${action}`));
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
