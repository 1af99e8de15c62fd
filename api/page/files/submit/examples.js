// Job files to start from, one for each kind of task.

const MODEL = { hub: "HuggingFaceTB/SmolLM2-135M-Instruct" };
const OBJECTIVE = { kind: "max_drop", points: 2 };

const TASKS = [
  {
    kind: "choice",
    prompt: "Review: {{ text }}\nSentiment:",
    answer: "{{ label }}",
    choices: ["negative", "positive"],
    data: { source: { path: "reviews.jsonl" } },
  },
  {
    kind: "generate",
    prompt: "Passage: {{ context }}\nQuestion: {{ question }}\nAnswer:",
    answer: "{{ answer }}",
    max_new_tokens: 24,
    data: { source: { path: "passages.jsonl" } },
  },
  { kind: "lm", answer: "{{ text[:2000] }}", data: { source: { path: "paragraphs.csv" } } },
];

export const EXAMPLES = TASKS.map((task) => ({ name: task.kind, model: MODEL, task, objective: OBJECTIVE }));

// What each of them is for.
export const MEANINGS = { choice: "choose among given answers", generate: "write an answer", lm: "continue texts" };
