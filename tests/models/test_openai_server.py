"""An OpenAI-compatible server, well-behaved and not, on this machine; nothing else is ever connected to."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
import sys
import threading
import time
import traceback
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import GenerationError, InputError, MissingExtraError, ModelError, RecipeError
from mmrag.models.registry import absolute_name, load_generator, open_model
from mmrag.roles import Piece, Sampling, Turn
from tests.models.chat_server import ChatServer, event, says, serve

ASKED = [Turn("system", "Be brief."), Turn("user", "What is on the beach?")]
SECRET = "sk-k7Q-very-secret"  # noqa: S105


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def generator_of(server: ChatServer):
    return load_generator(f"openai:qwen@{server.url}")


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def write_card(folder, address, **settings):
    path = folder / "lab.toml"
    about = {"model": "qwen-vl", "url": address, **settings}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in about.items()))
    return str(path)


def failure(server, sampling=None, turns=ASKED) -> str:
    began = time.monotonic()
    with pytest.raises(GenerationError) as caught:
        list(generator_of(server).generate(turns, sampling))
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is asked, and what comes


def test_words_come_piece_by_piece_with_their_probabilities():
    def chances(*values):
        return {"content": [{"token": "?", "logprob": value, "top_logprobs": []} for value in values]}

    answer = [
        event(delta={"role": "assistant", "content": ""}),
        event(delta={"content": "A dog"}, logprobs=chances(-0.5, -0.25)),
        event(delta={"content": "."}, logprobs=None),
        event(delta={}, finish_reason="length"),
        b": a comment\r\n\r\ndata: [DONE]\r\n\r\n",
        b"data: what comes behind the end\n\n",
    ]
    with serve(answer=answer) as server:
        assert list(generator_of(server).generate(ASKED)) == [
            Piece("A dog", -0.75),
            Piece("."),
            Piece("", end="length"),
        ]


def test_the_request_says_what_was_asked_and_no_more_than_it_must(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: something\nAuthorization: Bearer something")
    with serve("A dog.") as server:
        sampling = Sampling(max_tokens=7, temperature=0.5, nucleus=0.9, seed=3, stop=("\n",))
        list(generator_of(server).generate(ASKED, sampling))
    assert server.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "qwen",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What is on the beach?"},
            ],
            "stream": True,
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
            "logprobs": True,
        }
    ]
    known = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"}
    assert set(server.heard[0]) == known
    assert server.heard[0]["user-agent"].startswith("mmrag/")


def test_bytes_may_be_cut_anywhere():
    whole = b"".join(says("Ein Hünd", " 🐶", "."))
    with serve(answer=[whole[place : place + 3] for place in range(0, len(whole), 3)]) as server:
        assert text_of(generator_of(server).generate(ASKED)) == "Ein Hünd 🐶."


def test_a_stop_text_ends_the_answer_and_the_connection():
    with serve("A dog", ".\n", *["and more "] * 50, pause=0.02) as server:
        given = list(generator_of(server).generate(ASKED, Sampling(stop=(".\nand",))))
        assert text_of(given) == "A dog"
        assert given[-1] == Piece("", end="stop")
        assert server.left.wait(5)


def test_half_a_sign_in_a_text_is_replaced():
    with serve("A dog.") as server:
        list(generator_of(server).generate([Turn("user", "images/\udce9.jpg")]))
        assert server.asked[0]["messages"][0]["content"] == "images/?.jpg"


def test_no_more_is_asked_for_than_there_is_room_for():
    with serve("A dog.") as server:
        generator = generator_of(server)
        turns = [Turn("user", "word " * 3500)]
        list(generator.generate(turns, Sampling(max_tokens=1000)))
        assert server.asked[0]["max_tokens"] == 4096 - generator.count_turns(turns) < 1000
        with pytest.raises(GenerationError, match="qwen reads 4,096, what it writes included"):
            generator.generate([Turn("user", "word " * 4096)])
    assert len(server.asked) == 1


@pytest.mark.parametrize("names", [["logprobs"], ["seed", "logprobs"]])
def test_a_server_is_asked_again_without_what_it_refuses_and_it_is_remembered(names):
    with serve("A dog.", refuses={name: f"Unknown parameter: '{name}'" for name in names}) as server:
        generator = generator_of(server)
        for tries in (len(names) + 1, len(names) + 2):
            assert text_of(generator.generate(ASKED)) == "A dog."
            assert len(server.asked) == tries
    assert not set(names) & set(server.asked[-1])
    assert server.asked[-1]["temperature"] == 0


def test_the_newest_name_of_the_number_of_tokens_is_taken_where_the_old_one_is_refused():
    words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    with serve("A dog.", refuses={"max_tokens": words}) as server:
        assert text_of(generator_of(server).generate(ASKED, Sampling(max_tokens=9))) == "A dog."
    assert "max_tokens" not in server.asked[1]
    assert server.asked[1]["max_completion_tokens"] == 9


BEGUN = [*ASKED, Turn("assistant", "A dog")]


def test_a_server_is_told_that_it_goes_on_with_what_the_assistant_has_begun():
    with serve(" runs.") as server:
        assert text_of(generator_of(server).generate(BEGUN)) == " runs."
        assert text_of(generator_of(server).generate(ASKED)) == " runs."
    assert server.asked[0]["messages"][-1] == {"role": "assistant", "content": "A dog"}
    assert (server.asked[0]["continue_final_message"], server.asked[0]["add_generation_prompt"]) == (True, False)
    assert not {"continue_final_message", "add_generation_prompt"} & set(server.asked[1])


@pytest.mark.parametrize(
    "words", ["Unrecognized request argument supplied: continue_final_message", "no assistant message prefill here"]
)
def test_a_server_that_answers_users_alone_is_asked_to_go_on(words):
    with serve(" runs.", refuses={"continue_final_message": words}) as server:
        generator = generator_of(server)
        for tries in (2, 3):
            assert text_of(generator.generate(BEGUN)) == " runs."
            assert len(server.asked) == tries
            *before, begun, asked = server.asked[-1]["messages"]
            assert (len(before), begun["role"], asked["role"]) == (len(ASKED), "assistant", "user")
            assert asked["content"] == "Go on exactly where you stopped. Repeat nothing of it."
        assert text_of(generator.generate(ASKED)) == " runs."
        assert server.asked[-1]["messages"][-1]["role"] == "user"
        assert len(server.asked[-1]["messages"]) == len(ASKED)


def test_thoughts_are_no_part_of_the_answer():
    thoughts = [event(delta={"reasoning_content": "hm"}), event(delta={"reasoning": "hm", "content": None})]
    with serve(answer=[*thoughts, *says("<thi", "nk>a ", "cat?</think>", "\n\nA dog.")]) as server:
        assert text_of(generator_of(server).generate(ASKED)) == "A dog."
    with serve(answer=[*thoughts, *says(end="length")]) as server:
        assert "wrote no answer; let it write more tokens" in failure(server)


def test_it_is_asked_from_inside_a_running_loop_too():
    async def inside(generator):
        return text_of(generator.generate(ASKED))

    with serve("A dog.") as server:
        assert asyncio.run(inside(generator_of(server))) == "A dog."


def test_several_threads_ask_at_once():
    with serve(*"abcdef", pause=0.02) as server:
        generator = generator_of(server)
        found = []
        threads = [threading.Thread(target=lambda: found.append(text_of(generator.generate(ASKED)))) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert found == ["abcdef"] * 8


# What goes wrong


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, {"error": {"message": "context too long"}}, "refuses what it is asked (400: 'context too long')"),
        (401, {"error": {"message": "who?"}}, "wants a key; set the environment variable OPENAI_API_KEY to it (401"),
        (404, {"error": "model not found"}, "has no model 'qwen', or no chat at this address, which often ends in /v1"),
        (404, b"<!DOCTYPE html><html>no", "(404: a web page)"),
        (429, {"error": {"message": "slow down"}}, "try again in a while (429: 'slow down')"),
        (500, b"", "fails; look at its log, or try again (500"),
        (503, {"error": {"message": "\x1b[31mloading\n" + "x" * 500}}, "(503: '[31mloading xxx"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(status, body, told):
    answer = [body if isinstance(body, bytes) else json.dumps(body).encode()]
    with serve(answer=answer, status=status, kind="application/json") as server:
        message = failure(server)
    assert message.startswith(server.host)
    assert told in message
    assert len(message) < 400
    assert message.isprintable()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], "broke off in the middle of its answer"),
        ([event(delta={"content": "A"})], "broke off in the middle of its answer"),
        ([b"<html><body>Welcome</body></html>"], "but with a web page; look whether this is an OpenAI-compatible"),
        ([b'{"choices": []}'], "does not answer with a stream of events, but with"),
        ([b"\x00\xff\xfe garbage\n"], "does not answer with a stream of events"),
        ([b'data: {"choices": [{"del\n\n'], "sends an event that is not JSON"),
        ([b"data: 5\n\n"], "which is no answer"),
        ([b'data: {"object": "x"}\n\n'], "which is no answer"),
        ([event(delta={"content": ["a"]})], "which is no answer"),
        ([event(delta="a")], "which is no answer"),
        ([event(delta={"content": "a"}, logprobs={"content": [{}]})], "which is no answer"),
        ([b"data: " + b"x" * 65536] * 40, "sends a line without an end"),
        (
            [b'data: {"error": {"message": "out of memory"}}\n\n'],
            "gave up in the middle of its answer: 'out of memory'",
        ),
        (list(says("I ", end="content_filter")), "holds the rest of the answer back"),
        (
            list(says(end="tool_calls", tool_calls=[{"function": {"name": "rm"}}])),
            "asks for a tool, and was offered none",
        ),
    ],
)
def test_what_is_no_answer_is_one_line_that_says_so(answer, told):
    with serve(answer=answer) as server:
        message = failure(server)
    assert message.startswith(server.host)
    assert told in message


def test_what_came_before_a_connection_breaks_is_given():
    with serve(answer=[event(delta={"content": "A dog"})], headers={"Content-Length": "5000"}) as server:
        pieces = generator_of(server).generate(ASKED)
        assert next(pieces).text == "A dog"
        with pytest.raises(GenerationError, match="broke off in the middle of its answer"):
            next(pieces)


def test_no_server_at_all():
    with serve() as server:
        pass
    assert "cannot be reached" in failure(server)


@pytest.mark.parametrize("host", ["a" * 70, "b..c", "[::1]:9", "127.0.0.1:9"])
def test_no_host_at_all(host):
    with pytest.raises(GenerationError, match="cannot be reached") as caught:
        list(load_generator(f"openai:qwen@http://{host}/v1").generate(ASKED))
    assert "\n" not in str(caught.value)


def test_variables_that_only_the_client_knows_do_no_harm(monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "no header")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", SECRET)
    with serve("A dog.") as server:
        assert text_of(generator_of(server).generate(ASKED)) == "A dog."
        assert not any(SECRET in value for value in server.heard[0].values())


def test_a_server_that_knows_no_end_is_left():
    with serve(answer=itertools.cycle([event(delta={"content": "more "})])) as server:
        given = list(generator_of(server).generate(ASKED, Sampling(max_tokens=10)))
        assert given[-1].end == "length"
        assert len(given) < 200
        assert server.left.wait(5)


@pytest.mark.parametrize("parts", [1, 1000])
def test_what_takes_too_long_is_left(parts):
    pause = 30 if parts == 1 else 0.02
    with serve(*["word "] * parts, pause=pause) as server:
        assert "was not done after 0.4 s; allow more" in failure(server, Sampling(seconds=0.4))
        assert server.left.wait(5)


@pytest.mark.parametrize("pause", [0.02, 30])
def test_it_can_be_cancelled_while_it_writes_and_while_it_is_silent(pause):
    with serve(*["word "] * 1000, pause=pause) as server:
        cancel = threading.Event()
        threading.Timer(0.3, cancel.set).start()
        began = time.monotonic()
        given = list(generator_of(server).generate(ASKED, cancel=cancel))
        assert time.monotonic() - began < 2
        assert given[-1] == Piece("", end="cancelled")
        assert server.left.wait(5)


def test_leaving_closes_the_connection():
    with serve(*["word "] * 1000, pause=0.02) as server:
        pieces = generator_of(server).generate(ASKED)
        next(pieces)
        pieces.close()
        assert server.left.wait(5)


# Keys, and whom what is sent to


def test_a_key_goes_to_the_server_and_nowhere_else(monkeypatch, caplog, capfd, tmp_path):
    monkeypatch.setenv("LAB_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    caplog.set_level(logging.DEBUG)
    with serve("A dog.") as server:
        generator = load_generator(write_card(tmp_path, server.url, key_variable="LAB_API_KEY"))
        assert text_of(generator.generate(ASKED)) == "A dog."
        assert server.heard[0]["authorization"] == f"Bearer {SECRET}"
    refusal = json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}).encode()
    with serve(answer=[refusal], status=401, kind="application/json") as server:
        generator = load_generator(write_card(tmp_path, server.url, key_variable="LAB_API_KEY"))
        with pytest.raises(GenerationError, match="refuses the key in LAB_API_KEY; set LAB_API_KEY to one") as caught:
            list(generator.generate(ASKED))
    seen = [
        "".join(traceback.format_exception(caught.value)),
        caplog.text,
        *capfd.readouterr(),
        repr((generator.card, generator.server, generator.identity)),
        *(path.read_text() for path in tmp_path.rglob("*") if path.is_file()),
    ]
    assert not any(SECRET in one for one in seen)


def test_a_card_may_say_that_no_key_is_sent(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve("A dog.") as server:
        list(load_generator(write_card(tmp_path, server.url, key_variable="")).generate(ASKED))
        assert "authorization" not in server.heard[0]
        server.status = 401
        with pytest.raises(GenerationError, match="wants a key; name the environment variable that holds it"):
            list(load_generator(write_card(tmp_path, server.url, key_variable="")).generate(ASKED))


def test_no_key_goes_through_a_network_unencrypted(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(ModelError, match=r"would go to far\.invalid:8000 unencrypted; name the server by https://"):
        list(load_generator("openai:qwen@http://far.invalid:8000/v1").generate(ASKED))


def test_a_key_that_is_none_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\nX-Other: header")
    with pytest.raises(ModelError, match="OPENAI_API_KEY is no key") as caught:
        list(load_generator("openai:qwen@https://far.invalid/v1").generate(ASKED))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@127.0.0.1:9/v1", f"https://far.invalid/v1?key={SECRET}"])
def test_a_key_inside_an_address_is_refused_and_not_repeated(url):
    with pytest.raises(RecipeError, match="a key stands in an environment variable, OPENAI_API_KEY") as caught:
        open_model(f"openai:qwen@{url}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [302, 307, 308])
def test_what_is_asked_follows_no_redirect(status):
    with serve("A dog.") as other, serve(status=status, headers={"Location": f"{other.url}/x"}) as server:
        assert f"redirects to '{other.url}/x', which is not followed; name that address" in failure(server)
    assert not other.asked


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_without_a_network_only_this_machine_is_asked(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with serve("A dog.") as server:
        assert text_of(generator_of(server).generate(ASKED)) == "A dog."
        local = load_generator(f"openai:qwen@http://localhost:{server.server.server_address[1]}/v1")
        assert text_of(local.generate(ASKED)) == "A dog."
    with pytest.raises(GenerationError, match=r"far\.invalid is not this machine, and the network is switched off"):
        list(load_generator("openai:qwen@https://far.invalid/v1").generate(ASKED))


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch):
    with serve("from the proxy") as proxy, serve("A dog.") as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.host}")
        assert text_of(generator_of(server).generate(ASKED)) == "A dog."
        assert not proxy.asked
        far = load_generator("openai:qwen@http://far.invalid/v1")
        assert text_of(far.generate(ASKED)) == "from the proxy"
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://loft")
    with pytest.raises(GenerationError, match=r"far\.invalid cannot be reached \(.*carrier-pigeon.* proxies"):
        list(far.generate(ASKED))


# Pictures


def photograph():
    """A picture with all that cameras and programs write into it."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0)})  # GPS
    exif[0x010E] = "PRIVATE"  # description
    file = BytesIO()
    Image.fromarray(noise).save(
        file, "JPEG", exif=exif, comment=b"PRIVATE", xmp=b"<x>PRIVATE</x>", icc_profile=b"PRIVATE"
    )
    assert file.getvalue().count(b"PRIVATE") == 4
    return Image.open(file)


def test_pictures_go_as_pixels_alone_to_a_server_whose_card_says_vision(tmp_path):
    with serve("Noise.") as server:
        generator = load_generator(write_card(tmp_path, server.url, vision=True, max_image_side=256, image_tokens=100))
        assert generator.sees
        assert generator.image_tokens == 100
        turns = [Turn("user", "What is this?", (photograph(), Image.new("RGB", (8, 8), "red")))]
        assert generator.count_turns(turns) > 200
        list(generator.generate(turns))
        assert generator.caption([photograph()]) == ["Noise."]
        assert generator.answer([photograph()], ["what?"]) == ["Noise."]
    first, second, text = server.asked[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    address = first["image_url"]["url"]
    assert address.startswith("data:image/jpeg;base64,")
    content = base64.b64decode(address.partition(",")[2])
    assert b"PRIVATE" not in content
    sent = Image.open(BytesIO(content))
    assert sent.size == (256, 85)
    assert not sent.getexif()
    assert not {"exif", "comment", "xmp", "icc_profile"} & set(sent.info)
    red = np.asarray(Image.open(BytesIO(base64.b64decode(second["image_url"]["url"].partition(",")[2]))))
    assert red.mean((0, 1)) == pytest.approx([255, 0, 0], abs=3)


def test_no_picture_goes_to_a_server_whose_card_does_not_say_vision(tmp_path):
    with serve("Noise.") as server:
        for name in (f"openai:gpt-vision@{server.url}", write_card(tmp_path, server.url)):
            generator = load_generator(name)
            assert not generator.sees
            assert generator.image_tokens == 0
            with pytest.raises(InputError, match="sees no pictures"):
                generator.generate([Turn("user", "What is this?", (photograph(),))])
            with pytest.raises(ModelError, match="sees no pictures"):
                generator.caption([photograph()])
    assert not server.asked


# Names and cards


def test_a_server_is_named_by_the_environment_too(monkeypatch):
    with serve("A dog.") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert text_of(load_generator("openai:vendor/qwen:7b@fp8").generate(ASKED)) == "A dog."
        assert server.asked[0]["model"] == "vendor/qwen:7b@fp8"


@pytest.mark.parametrize("name", ["openai:", "openai:qwen", "openai:qwen@localhost:11434", "openai:@http://a/v1"])
def test_what_names_no_server_is_told_how_to(name):
    with pytest.raises(ModelError, match="Give openai:MODEL@URL, such as"):
        open_model(name)


@pytest.mark.parametrize("url", ["http://", "http://a b/v1", "http://a:0/v1", "http://a:port/v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(RecipeError, match="url is an address such as http://localhost:11434/v1"):
        open_model(f"openai:qwen@{url}")


def test_a_card_names_a_server(tmp_path, monkeypatch):
    with serve("A dog.") as server:
        path = write_card(tmp_path, server.url, context=1000, licence="Apache-2.0")
        generator = load_generator(path)
        assert (generator.card.name, generator.context_tokens) == ("qwen-vl", 1000)
        assert generator.card.licence_weights == "Apache-2.0"
        monkeypatch.chdir(tmp_path)
        assert absolute_name("lab.toml") == path
        for name in ("lab.toml", "./lab.toml", "openai:lab.toml"):
            assert text_of(load_generator(name).generate(ASKED)) == "A dog."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visoin": True}, r"unknown key 'visoin' \(did you mean 'vision'\?\)"),
        ({"parts": "x"}, "unknown key 'parts'"),
        ({"url": "ftp://127.0.0.1"}, "url is an address such as"),
        ({"model": " "}, "model is what the server calls it"),
        ({"context": 3}, "context and max_image_side are at least 16"),
        ({"image_tokens": 0}, "image_tokens at least 1"),
        ({"key_variable": "AWS_SECRET_ACCESS_KEY"}, "so that no other secret is ever sent"),
        ({"key_variable": "sk-in-the-card"}, "ends in API_KEY"),
        ({"key": "sk-in-the-card"}, "unknown key 'key'"),
    ],
)
def test_what_is_wrong_in_a_card_is_said(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        open_model(write_card(tmp_path, "http://127.0.0.1:9/v1", **settings))


def test_a_card_that_is_not_there():
    with pytest.raises(RecipeError, match="cannot read"):
        open_model("./nowhere.toml")


def test_showing_a_server_asks_it_nothing(command, tmp_path):
    with serve("A dog.") as server:
        code, out, _ = command("models", "show", f"openai:qwen@{server.url}")
        assert code == 0
        assert server.url in out
        _, out, _ = command("models", "show", write_card(tmp_path, server.url, vision=True), "--json")
        assert json.loads(out)["modalities"] == ["image", "text"]
        assert not server.heard


def test_without_the_openai_client_the_install_line_is_printed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with serve("A dog.") as server:
        with pytest.raises(MissingExtraError, match=r"pip install 'mmrag\[llm\]'"):
            list(generator_of(server).generate(ASKED))
        assert not server.asked


def test_nobody_claims_that_a_server_is_here(capsys):
    from mmrag.cli.models import show

    show("openai:qwen@http://127.0.0.1:9/v1", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["here"]) == ("qwen", None)
    show("openai:qwen@http://127.0.0.1:9/v1")
    assert "here" not in capsys.readouterr().out.replace("sent there", "")
