"""What a runner says reaches the database whatever it holds."""

import pytest

from worker.messages import EVENT, Event, Failed, Phase


@pytest.mark.parametrize(
    "text", ["plain", "b\udcff\udcfe.jpg", "nul \0 byte", "snow \N{SNOWMAN}", "esc \x1b[31m.png", "two\nlines"]
)
def test_a_message_with_any_text_survives_the_pipe_and_can_be_stored(text: str) -> None:
    messages: tuple[Event, ...] = (Failed(reason="invalid_data", message=text), Phase(message=text))
    for said in messages:
        heard = EVENT.validate_json(said.model_dump_json().encode())
        assert heard == said
        assert isinstance(heard, Failed | Phase)
        assert all(character.isprintable() or character == "\n" for character in heard.message)
        assert heard.message.encode("utf-8").decode() == heard.message
