"""Messenger and Instagram, played: Pages and accounts, customers who talk, the Graph API, signed webhooks.

    platform    the whole, as one object to script      graph     what is answered to the business
    people      who writes and what                     control   the same scripting over HTTP
    standing    as the commands use it

It shares with the played WhatsApp (the parent package) the wire, the retries, the faults and the ledger, in
which `phone_number_id` is the account's id and `wa_id` the person's."""
