import type { CompletedVerb } from "./completed_verb.ts";

/** The script for bash 3.2 and later. */
export function bashCompletion(verbs: CompletedVerb[]): string {
  return `\
# Completion of jbazel for bash: source <(jbazel completion bash)

# Completes as for bazel, if something that does so is installed.
_jbazel_as_bazel() {
  local spec first=\${COMP_WORDS[0]}
  spec=$(complete -p bazel 2>/dev/null)
  if [ -z "$spec" ]; then
    if declare -F _comp_load >/dev/null; then
      _comp_load bazel
    elif declare -F __load_completion >/dev/null; then
      __load_completion bazel
    fi >/dev/null 2>&1
    spec=$(complete -p bazel 2>/dev/null)
  fi
  [[ $spec =~ -F\\ ([^ ]+) ]] || return 0
  case $spec in *"-o nospace"*) compopt -o nospace 2>/dev/null ;; esac
  COMP_WORDS[0]=bazel
  case $COMP_LINE in
    "$first"*)
      COMP_LINE=bazel\${COMP_LINE#"$first"}
      COMP_POINT=$((COMP_POINT - \${#first} + 5)) ;;
  esac
  "\${BASH_REMATCH[1]}" bazel "$1" "$2"
}

_jbazel() {
  local cur=\${COMP_WORDS[COMP_CWORD]} option=\${COMP_WORDS[COMP_CWORD - 1]} words= word
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    _jbazel_as_bazel "$cur" "$option"
    while IFS= read -r word; do COMPREPLY+=("$word "); done < <(
      compgen -W "${[...verbs.map((v) => v.name), "--help", "--version"].join(" ")}" -- "$cur"
    )
    compopt -o nospace 2>/dev/null
    return 0
  fi
  # "--rc=x" comes as three words.
  if [ "$cur" = "=" ]; then cur=; elif [ "$option" = "=" ]; then option=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  case "\${COMP_WORDS[1]} $option" in
${valueCases(verbs)}\
  esac
  case \${COMP_WORDS[1]} in
${verbs.map((v) => `    ${v.name}) words="${wordsOf(v)}" ;;\n`).join("")}\
    *) _jbazel_as_bazel "$cur" "$option"; return 0 ;;
  esac
  while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$words" -- "$cur")
}

complete -F _jbazel jbazel
`;
}

function wordsOf({ options, words }: CompletedVerb): string {
  return [...words, ...options.flatMap((o) => o.names)].join(" ");
}

/** The values of options. */
function valueCases(verbs: CompletedVerb[]): string {
  const actions = { file: "-f", directory: "-d" } as const;
  return verbs.flatMap(({ name, options }) =>
    options.flatMap(({ names, value }) => {
      if (value === "none") return [];
      const patterns = names.map((n) => `"${name} ${n}"`).join(" | ");
      const fill = value === "other" ? "" : `
      compopt -o filenames 2>/dev/null
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen ${actions[value]} -- "$cur")`;
      return [`    ${patterns})${fill}\n      return 0 ;;\n`];
    })
  ).join("");
}
