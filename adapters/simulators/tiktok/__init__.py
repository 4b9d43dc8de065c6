"""TikTok, played: business accounts, people who write to them, the Business API, signed webhooks.

    platform    the whole, as one object to script      api        what is answered to the business
    people      who writes and what                     standing   as the commands use it
    accounts    what both sides know of an account      history    what was written, for the lists

A customer's id is that of the conversation, which is what the business knows of them."""
