"""Google Business, played: agents of Business Messages, and Business Profiles with reviews.

    messages   an agent's customers, their webhooks     reviews   a profile, its reviewers, Pub/Sub's pushes
    people     who writes and what                      signing   Google's keys and tokens
    api        what both APIs have in common            standing  as the commands use them

An account of the one is none of the other, so each is a platform to play by itself."""
