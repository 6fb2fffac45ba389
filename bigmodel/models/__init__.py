"""Model families: one file each, and the table of them."""

from bigmodel.models import (
    decoder,
    dit,
    encoder,
    encoder_decoder,
    masked_autoencoder,
    recommender,
    speech,
    speech_encoder,
    two_towers,
    vit,
)

# name in a config -> (the module whose fields are the config's, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "dit": (dit.DiT, dit.make),
    "encoder": (encoder.Encoder, encoder.make),
    "encoder_decoder": (encoder_decoder.EncoderDecoder, encoder_decoder.make),
    "masked_autoencoder": (
        masked_autoencoder.MaskedAutoencoder,
        masked_autoencoder.make,
    ),
    "recommender": (recommender.Recommender, recommender.make),
    "speech": (speech.Speech, speech.make),
    "speech_encoder": (speech_encoder.SpeechEncoder, speech_encoder.make),
    "two_towers": (two_towers.TwoTowers, two_towers.make),
    "vit": (vit.ViT, vit.make),
}
