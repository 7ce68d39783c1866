"""An agent on a model that `llmkit serve` serves, with two tools: a calculator and a search over the Python docs.

    llmkit serve smollm2-135m-instruct &
    python examples/agent.py "What is 23 * 17?"
    python examples/agent.py --plain "What is 23 * 17?"         # for the smallest models
    python examples/agent.py --in faq "How long do refunds take?"    # search files of your own
    python examples/agent.py --smolagents "What is 23 * 17?"    # the same tools in smolagents' loop

What the model asks for and what it gets goes to stderr, its answer to stdout. The exit status is 1 where it gave none.
"""

import argparse
import ast
import json
import operator
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from openai import OpenAI

from llmkit.inference.search import Searcher
from llmkit.system.errors import LlmkitError

SYSTEM = ("You never calculate yourself and never answer from memory: "
          "you call the tool calculator or the tool search first.")
# A model of 135 million weights calls no tool that it hasn't seen called. Both tools name their argument alike, because
# so small a model mixes names up.
EXAMPLES = [
    ("What is 6 * 9?", "calculator", "6 * 9", "54", "6 * 9 is 54."),
    ("How do I sort a list in Python?", "search", "sort a list",
     "list.sort(): Sort the list in ascending order and return None.", "Call list.sort(): it sorts the list."),
    ("How much is 144 divided by 6?", "calculator", "144 / 6", "24.0", "144 / 6 is 24."),
    ("What does math.sqrt do?", "search", "math.sqrt", "math.sqrt: Return the square root of x.",
     "math.sqrt returns the square root of x."),
    ("What is 7 times 8?", "calculator", "7 * 8", "56", "7 * 8 is 56."),
    ("How can I read a CSV file?", "search", "read a CSV file",
     "csv.reader: Return a reader object that will process lines from the given iterable.",
     "Use csv.reader: it goes through the lines of a file."),
    ("A book costs 4 dollars. What do 9 books cost?", "calculator", "4 * 9", "36", "9 books cost 36 dollars.")]
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}


def calculator(input: str) -> str:
    """Work out an arithmetic expression.

    Args:
        input: Numbers with + - * / // % ** and parentheses, as "3 * (4 + 5)".
    """
    if len(input) > 200:
        raise ValueError("the expression is longer than 200 characters")
    return str(_value(ast.parse(input.strip(), mode="eval").body))


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
            one, other = _value(left), _value(right)
            if isinstance(operation, ast.Pow) and (abs(one) > 1e6 or abs(other) > 100):
                raise ValueError("the power is too large")  # 9 ** 9 ** 9 would take all time and memory
            return OPERATIONS[type(operation)](one, other)
    raise ValueError(f"only numbers with + - * / // % ** are worked out, not {ast.unparse(node)!r}")


def search(input: str) -> str:
    """Search the documentation of Python and its standard library.

    Args:
        input: What to look for, in a few words.
    """
    hits = docs(*FILES).search([input], top=2)[0]
    return "\n".join(f"{hit.title or hit.file}: {' '.join(hit.text.split())[:300]}" for hit in hits)


@cache
def docs(*files: str) -> Searcher:
    """The index of these files, or of Python's documentation: built with the first search, and kept."""
    return Searcher.open(files or "builtin:python-docs")


FILES: list[str] = []
"""What `search` searches; nothing: Python's documentation."""
TOOLS = {"search": search, "calculator": calculator}


def use(name: str, arguments: str) -> str:
    """What a tool gives for arguments in JSON; what is wrong with them is told to the model, which may do better."""
    try:
        return TOOLS[name](**json.loads(arguments))
    except KeyError:
        return f"error: there is no tool {name!r}, only {', '.join(TOOLS)}"
    except (ValueError, TypeError, SyntaxError, ArithmeticError, LlmkitError) as error:
        return f"error: {error}"


def called(name: str, arguments: dict[str, Any], id: str) -> dict[str, Any]:
    """A message with a call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": id, "type": "function", "function": function}]}


def worked(question: str, name: str, argument: str, result: str, answer: str) -> list[dict[str, Any]]:
    """An example as a conversation has it: a question, the call of a tool, what it gave, the answer."""
    return [{"role": "user", "content": question},
            called(name, {"input": argument}, "example"),
            {"role": "tool", "tool_call_id": "example", "content": result},
            {"role": "assistant", "content": answer}]


def as_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its call or its result written out, for a model that is told nothing of tools."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if "tool_calls" not in message:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [json.dumps({"name": one["name"], "arguments": json.loads(one["arguments"])}) for one in functions]
    return {"role": "assistant", "content": "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)}


def as_call(text: str) -> dict[str, Any]:
    """A message from what such a model wrote: a call where it is one, else an answer."""
    match = re.search(r"<tool_call>\s*(\{.*\})\s*</tool_call>", text, re.DOTALL)
    try:
        call = json.loads(match[1]) if match else {}
    except json.JSONDecodeError:
        call = {}
    if "name" not in call:
        return {"role": "assistant", "content": text}
    return called(call["name"], call.get("arguments", {}), "call")


def ask(question: str, client: Any, model: str, turns: int, tell: Callable[[str], None], plain: bool) -> str | None:
    """The tool loop: the model is asked, its calls are carried out and their results returned, until it answers.

    None where it still calls tools after `turns` turns. `plain`: nothing in the request says that there are tools;
    calls and results are text.
    """
    from transformers.utils import get_json_schema

    tools: Any = [get_json_schema(tool) for tool in TOOLS.values()]
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for example in EXAMPLES:
        messages += worked(*example)
    messages.append({"role": "user", "content": question})
    for _ in range(turns):
        options: Any = {"messages": messages, "tools": tools}
        if plain:
            options = {"messages": [as_text(one) for one in messages]}
        reply = client.chat.completions.create(
            model=model, temperature=0, max_tokens=200, **options,
            extra_body={"repetition_penalty": 1.0})  # a call repeats what was said before: no penalty for that
        said = reply.choices[0].message
        message = as_call(said.content or "") if plain else said.model_dump(exclude_none=True)
        if not message.get("tool_calls"):
            return str(message.get("content", ""))
        messages.append(message)
        for call in message["tool_calls"]:
            result = use(**call["function"])
            tell(f"{call['function']['name']}({call['function']['arguments']}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return None


def ask_smolagents(question: str, model: str, base_url: str, api_key: str, turns: int) -> str:
    """The same with smolagents, whose loop also keeps a memory and can plan."""
    try:
        from smolagents import OpenAIModel, ToolCallingAgent, tool
    except ImportError:
        raise SystemExit("agent: error: --smolagents needs smolagents: pip install smolagents") from None
    served = OpenAIModel(model, api_base=base_url, api_key=api_key, temperature=0, max_tokens=200)
    agent = ToolCallingAgent([tool(one) for one in TOOLS.values()], served, instructions=SYSTEM, max_steps=turns)
    return str(agent.run(question))


def main(arguments: list[str] | None = None) -> int:
    """Ask one question; 0 where an answer came."""
    parser = argparse.ArgumentParser(description="An agent with a calculator and a search, on a served model.")
    parser.add_argument("question")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="one of /v1/models")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--in", dest="files", metavar="FOLDER|FILE", action="append", default=[],
                        help="what the tool search searches; Python's documentation where nothing is said")
    parser.add_argument("--turns", type=int, default=6, help="turns at most")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--plain", action="store_true", help="calls as text, for models too small for schemas of tools")
    way.add_argument("--smolagents", action="store_true", help="with smolagents' loop instead of this file's")
    given = parser.parse_args(arguments)
    FILES[:] = given.files
    if given.smolagents:
        answer: str | None = ask_smolagents(given.question, given.model, given.base_url, given.api_key, given.turns)
    else:
        client = OpenAI(base_url=given.base_url, api_key=given.api_key)
        answer = ask(given.question, client, given.model, given.turns, lambda line: print(line, file=sys.stderr),
                     given.plain)
    if answer is None:
        print(f"agent: no answer in {given.turns} turns", file=sys.stderr)
        return 1
    print(answer)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
